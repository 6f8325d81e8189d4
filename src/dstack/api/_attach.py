"""Being attached to a job: local ports, the tunnel behind them, and `ssh <run>`. One process a job; others join it."""

import atexit
import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dstack.api import _places, _ports, _ssh_config
from dstack.api._keys import Identity
from dstack.api._tunnel import Tunnel, Way
from dstack.errors import PortUsedError, SSHError
from dstack.protocol.views import AccessView


@dataclass(frozen=True, slots=True)
class Wish:
    """What to attach to, and how.

    Args:
        key: names the job among all, also as a file name.
        host_name: what `ssh` shall call it.
        wanted: container port to local port; None stands for any free one.
        bind_address: where to listen; None for loopback.
        is_explicit: whether the caller chose ports or address, so that ports of another process would not do.
        same_machine: whether the server is on this machine.
        reserved: sockets that are held already.
        identity: the key to open the way with.
        grant: asks the server to let the key in.
    """

    key: str
    host_name: str
    wanted: dict[int, int | None]
    bind_address: str | None
    is_explicit: bool
    same_machine: bool
    reserved: _ports.Reservation | None
    identity: Identity
    grant: Callable[[], AccessView]


@dataclass(slots=True)
class Attachment:
    """A way into one job that is open now. `close` undoes all of it."""

    ports: dict[int, int]
    """Container port to local port."""
    _undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def close(self) -> None:
        """Undo all; harmless where it is undone already."""
        self._undo.close()
        atexit.unregister(self.close)


def open_attachment(wish: Wish) -> Attachment:
    """Open the way in, or join the process of this user that has it open.

    Raises:
        PortUsedError: a local port cannot be had, or another process is attached with other ports.
        SSHError: the tunnel could not be opened; says why.
    """
    access = wish.grant()
    is_local = access.hostname in ("127.0.0.1", "localhost", "::1")
    if is_local and not wish.same_machine:
        raise SSHError(
            "The run is on the server's own machine, into which there is no way from here",
            hint="Attach on that machine; `logs` works from here",
        )
    with contextlib.ExitStack() as undo:
        with _places.locked(_folder() / "lock"):
            claim = _Claim(_folder() / f"{wish.key}.json")
            if not claim.is_ours:
                return _joined(wish, claim.read())
            undo.callback(claim.release)
            ports, sockets = _bind(wish, is_direct=is_local and access.shares_network)
            claim.write({"pid": os.getpid(), "ports": ports})
        tunnel = Tunnel(Way(wish.grant, wish.identity, sockets))
        undo.callback(tunnel.close)
        tunnel.open(access)
        host = _ssh_config.Host(
            wish.host_name, access.hostname, access.ssh_port, access.ssh_user, wish.identity.path, access.host_key
        )
        _ssh_config.add(host)
        undo.callback(_ssh_config.remove, host)
        attachment = Attachment(ports, undo.pop_all())
        atexit.register(attachment.close)
        return attachment


class _Claim:
    """A file that says who is attached to a job, locked for as long as that process is.

    Made, taken and removed only under the folder's lock, so that nobody holds a file that is removed already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_ours = True
        except BlockingIOError:
            os.close(self._handle)
            self.is_ours = False

    def read(self) -> dict[str, object]:
        state: dict[str, object] = json.loads(self._path.read_text("utf-8"))
        return state

    def write(self, state: dict[str, object]) -> None:
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(state).encode(), 0)

    def release(self) -> None:
        with _places.locked(_folder() / "lock"):
            self._path.unlink(missing_ok=True)
            os.close(self._handle)


def _folder() -> Path:
    return _places.private_folder(_places.home() / "attached")


def _joined(wish: Wish, state: dict[str, object]) -> Attachment:
    """What another process (or another `Run` in this one) has open already; closing it closes nothing."""
    ports = state["ports"]
    assert isinstance(ports, dict)
    joined = {int(port): int(local) for port, local in ports.items()}
    if wish.is_explicit:
        raise PortUsedError(
            f"The run `{wish.host_name}` is attached by process {state['pid']} already, with other ports or address",
            hint="Detach it there first, or attach without naming ports and address to use the same",
        )
    if wish.reserved is not None:
        wish.reserved.release()
    return Attachment(joined)


def _bind(wish: Wish, *, is_direct: bool) -> tuple[dict[int, int], dict[int, socket.socket]]:
    """The local port of each container port, and the sockets of those that need a forward.

    Where the job's ports are this machine's, `8000:8000` needs none: the job itself listens there, and must find the
    port free.
    """
    host = _ports.address_of(wish.bind_address)
    direct = {
        port: port for port, local in wish.wanted.items() if is_direct and local == port and host == _ports.LOOPBACK
    }
    rest = [(port, local) for port, local in wish.wanted.items() if port not in direct]
    sockets = _ports.listen_on(host, rest, wish.reserved)
    if wish.reserved is not None:
        wish.reserved.release()
    return direct | {port: bound.getsockname()[1] for port, bound in sockets.items()}, sockets
