"""The embedded server: this user's own, on this machine, started in the background by whoever needs it first.

The server writes `server.json` when it serves; whoever reads that knows where it is. Starting takes a file lock, so
that two commands at once start one server.
"""

import json
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from dstack.api import _places
from dstack.api._servers import Address, announced
from dstack.errors import ServerUnreachableError

START_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 2.0
LOG_LINES_SHOWN = 10
LOG_BYTES_MAX = 8 << 20
"""A longer log is put aside at the next start; one such is kept."""
MESSAGE_BYTES_MAX = 64 << 10
COMMAND = (sys.executable, "-P", "-m", "dstack.server")
NOT_THE_SERVERS = frozenset(("DSTACK_JOB_ID",))
"""By which an agent knows what a job has left behind, to end it: a server that is started in a job is no part of it."""


class EmbeddedServer:
    """Finds this user's server, or starts it.

    Args:
        folder: where the server keeps its data.
        command: what starts a server; `--embedded --data-dir DIR --ready-fd N` is added.
    """

    def __init__(self, folder: Path, command: tuple[str, ...] = COMMAND) -> None:
        self._folder = folder
        self._command = command
        self._lock = threading.Lock()
        self._address: Address | None = None

    def find(self) -> Address:
        """The server's address; starts the server where none is listening.

        Raises:
            ServerUnreachableError: it does not start; says why, or shows the end of its log.
        """
        with self._lock:
            if self._address is None:
                self._address = self._running() or self._started()
            return self._address

    def lost(self, address: Address) -> bool:
        """Look for the server again, at the next `find`."""
        with self._lock:
            if self._address == address:
                self._address = None
        return True

    def is_own(self) -> bool:
        return True

    def _running(self) -> Address | None:
        """The address in `server.json`, where something listens there."""
        address = announced(self._folder)
        try:
            parts = urlsplit(address.url) if address is not None else None
            if parts is None:
                return None
            with socket.create_connection((parts.hostname, parts.port), CONNECT_TIMEOUT_S):
                return address
        except (OSError, ValueError, TypeError):
            return None

    def _started(self) -> Address:
        _places.private_folder(self._folder)
        with _places.locked(self._folder / "start.lock"):
            return self._running() or self._start()

    def _start(self) -> Address:
        import subprocess  # seldom needed, and commands start often

        path = self._folder / "server.log"
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.rename(path.with_suffix(".log.old"))
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        ready, ready_there = os.pipe()
        try:
            process = subprocess.Popen(
                [*self._command, "--embedded", "--data-dir", str(self._folder), "--ready-fd", str(ready_there)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_there,),
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name not in NOT_THE_SERVERS},
            )
            # Nobody else waits for the server, and it may end long before this process does.
            threading.Thread(target=process.wait, name="dstack-embedded-server", daemon=True).start()
            os.close(ready_there)
            ready_there = -1
            return self._address_in(_read_line(ready, START_TIMEOUT_S))
        finally:
            for handle in (log, ready, ready_there):
                if handle >= 0:
                    os.close(handle)

    def _address_in(self, line: bytes) -> Address:
        """The address that a starting server has announced."""
        try:
            message = json.loads(line)
            if "error" in message:
                raise ServerUnreachableError(
                    f"The embedded server did not start: {message['error']}", hint=message.get("hint")
                )
            return Address(message["url"], message["token"])
        except (ValueError, KeyError, TypeError) as error:
            log = self._folder / "server.log"
            with log.open(encoding="utf-8", errors="replace") as file:
                end = "".join(f"\n  {text.rstrip()}" for text in file.readlines()[-LOG_LINES_SHOWN:])
            raise ServerUnreachableError(
                f"The embedded server did not start within {START_TIMEOUT_S:.0f} s; its log `{log}` ends with:{end}",
                hint="Start it by hand with `dstack server` to see more",
            ) from error


def _read_line(handle: int, timeout_s: float) -> bytes:
    """One line from a pipe; what there is of it where the pipe is closed or the time is over."""
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    line = b""
    while not line.endswith(b"\n") and len(line) < MESSAGE_BYTES_MAX:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            break
        chunk = os.read(handle, 4096)
        if not chunk:
            break
        line += chunk
    return line
