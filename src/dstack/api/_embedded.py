"""The embedded server: this user's server on this machine, started in the background by the first command.

A running server writes its address to `server.json`. Starting takes a file lock, so two commands at once start one
server. A command that finds another server starting or ending waits for it.
"""

import json
import os
import selectors
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from dstack.api import _places
from dstack.api._servers import Address, announced
from dstack.errors import ConfigurationError, ServerUnreachableError
from dstack.kit import systems
from dstack.kit.locks import is_locked, locked

START_TIMEOUT_S = 30.0
"""The longest wait for a server that starts."""
ASK_EVERY_S = 0.05
CONNECT_TIMEOUT_S = 2.0
REFUSED_TIMEOUT_S = 10.0
"""The longest wait for the end of a server that has refused to start."""
LOG_LINES_SHOWN = 10
LOG_BYTES_MAX = 8 << 20
"""The size above which a start renames the log. One old log is kept."""
MESSAGE_BYTES_MAX = 64 << 10
COMMAND = (sys.executable, "-P", "-m", "dstack.server")
NOT_THE_SERVERS = frozenset(("DSTACK_JOB_ID",))
"""Variables that mark the processes of a job for the agent, which ends them with the job. A server is not marked."""


def check_system() -> None:
    """Refuse a server of this user's own where none can run.

    Raises:
        ConfigurationError: this system is not Linux. The hint names the way out.
    """
    if systems.HAS_SERVERS:
        return
    hint = "Add a server elsewhere with `dstack project add --name PROJECT --url URL`"
    if systems.NAME == "Windows":
        hint += ", or use dstack in WSL, where a server of your own starts by itself"
    raise ConfigurationError(f"A server of your own cannot run on {systems.NAME}; servers run on Linux", hint=hint)


class EmbeddedServer:
    """This user's embedded server. `find` starts it if it does not run.

    Args:
        folder: the server's data folder.
        command: the command that starts a server; `--embedded --data-dir DIR --ready-fd N` is added.
    """

    def __init__(self, folder: Path, command: tuple[str, ...] = COMMAND) -> None:
        self._folder = folder
        self._command = command
        self._lock = threading.Lock()
        self._address: Address | None = None

    def find(self) -> Address:
        """Return the server's address. Starts the server if none is listening.

        Raises:
            ServerUnreachableError: the server does not start. Contains the reason, or the end of the server's log. Or
                another server has the folder, and does not answer.
            ConfigurationError: no server can run on this system.
        """
        with self._lock:
            if self._address is None:
                self._address = self._running() or self._started()
            return self._address

    def lost(self, address: Address) -> bool:
        """Forget the address, so that the next `find` looks for the server again."""
        with self._lock:
            if self._address == address:
                self._address = None
        return True

    def is_running(self) -> bool:
        with self._lock:
            self._address = self._address or self._running()
            return self._address is not None

    def is_own(self) -> bool:
        return True

    def _running(self) -> Address | None:
        """Return the address in `server.json`; None if no process listens there."""
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
        check_system()
        _places.private_folder(self._folder)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with locked(self._folder / "start.lock"):
                if (address := self._running()) is not None:
                    return address
                if not self._is_held():
                    try:
                        return self._start()
                    except ServerUnreachableError:
                        # A server that was started by hand may have been faster, or has just replaced this one.
                        self._pause()
                        if not self._is_held() or time.monotonic() > deadline:
                            raise
            if time.monotonic() > deadline:
                raise self._held()
            self._pause()

    def _pause(self) -> None:
        threading.Event().wait(ASK_EVERY_S)

    def _is_held(self) -> bool:
        """Return whether a server has the folder, also one that starts or ends."""
        return is_locked(self._folder / "server.lock")

    def _held(self) -> ServerUnreachableError:
        try:
            process = f" (process {json.loads((self._folder / 'server.lock').read_bytes())['pid']})"
        except (OSError, ValueError, KeyError, TypeError):
            process = ""
        return ServerUnreachableError(
            f"A server{process} has the data folder `{self._folder}`, but did not answer for {START_TIMEOUT_S:.0f} s",
            hint="Look at it with `dstack server status`, or stop it with `dstack server stop`; its jobs go on",
        )

    def _start(self) -> Address:
        import subprocess  # rarely needed, and slow to import

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
            # Reap the server's process, which may end long before this one.
            reaper = threading.Thread(target=process.wait, name="dstack-embedded-server", daemon=True)
            reaper.start()
            os.close(ready_there)
            ready_there = -1
            return self._address_in(_read_line(ready, START_TIMEOUT_S), reaper)
        finally:
            for handle in (log, ready, ready_there):
                if handle >= 0:
                    os.close(handle)

    def _address_in(self, line: bytes, reaper: threading.Thread) -> Address:
        """Return the address in the line of a starting server; wait for the end of one that refuses to start."""
        try:
            message = json.loads(line)
            if "error" in message:
                reaper.join(REFUSED_TIMEOUT_S)  # until then it holds the folder, as if it were starting
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
    """Return one line from a pipe; a part of it if the pipe is closed or the time expires."""
    deadline = time.monotonic() + timeout_s
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while not line.endswith(b"\n") and len(line) < MESSAGE_BYTES_MAX:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            chunk = os.read(handle, 4096)
            if not chunk:
                break
            line += chunk
    return line
