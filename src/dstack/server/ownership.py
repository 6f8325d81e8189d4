"""One server per data folder: a lock for its life, and a file with its address for clients."""

import fcntl
import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack.api._places import private_folder
from dstack.errors import ConfigurationError

HANDOVER_TIMEOUT_S = 30.0
ASKER_TIMEOUT_S = 0.2
"""A process that asks whether a server lives holds the lock for a moment."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The server that owns a data folder. Keep it as long as the server lives."""

    data_dir: Path
    lock_fd: int
    replaced_pid: int | None = None
    """The process of the background server that this one replaced."""

    def announce(self, url: str, token: str, *, embedded: bool, version: str) -> None:
        """Write the server's address for clients of this user. The file is theirs alone: it holds the token."""
        about = {"url": url, "token": token, "pid": os.getpid(), "embedded": embedded, "version": version}
        write_private(self.data_dir / "server.json", json.dumps(about).encode())

    def token(self) -> str | None:
        """The token of the server that owned the folder before."""
        token = _read(self.data_dir / "server.json").get("token")
        return token if isinstance(token, str) and token else None


def own(data_dir: Path, *, embedded: bool) -> Owner:
    """Take the folder. A hand-started server takes it over from an embedded one, whose jobs go on meanwhile.

    Raises:
        ConfigurationError: another server has it, or it cannot be written.
    """
    try:
        private_folder(data_dir)
        fd = os.open(data_dir / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The data folder `{data_dir}` cannot be used: {error.strerror}",
            hint="Check its permissions, or choose another with `DSTACK_SERVER_DIR`",
        ) from error
    replaced_pid = None if _lock(fd, ASKER_TIMEOUT_S) else _take_over(fd, data_dir, embedded=embedded)
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"pid": os.getpid(), "embedded": embedded}).encode(), 0)
    return Owner(data_dir, fd, replaced_pid)


def _lock(fd: int, within_s: float) -> bool:
    waiter = threading.Thread(target=fcntl.flock, args=(fd, fcntl.LOCK_EX), daemon=True)
    waiter.start()
    waiter.join(within_s)
    return not waiter.is_alive()


def _take_over(fd: int, data_dir: Path, *, embedded: bool) -> int:
    """Take the folder from an embedded server; return its process."""
    holder = _read(data_dir / "server.lock")
    if not holder.get("embedded"):
        raise ConfigurationError(
            f"A server (process {holder.get('pid', 'unknown')}) already serves the data folder `{data_dir}`",
            hint="Use that one, or stop it first with `dstack server stop`",
        )
    # A client that starts an embedded server found that the one before does not answer any more: it is ending.
    if not embedded:
        os.kill(int(holder["pid"]), signal.SIGTERM)
    if not _lock(fd, HANDOVER_TIMEOUT_S):
        raise ConfigurationError(
            f"The embedded server (process {holder['pid']}) did not hand over within {HANDOVER_TIMEOUT_S:g} s",
            hint=f"End it with `kill -9 {holder['pid']}`; its jobs continue",
        )
    return int(holder["pid"])


def _read(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def write_private(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, at once or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
