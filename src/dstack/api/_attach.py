"""Attachment to a job: local ports, the tunnel behind them, and `ssh <run>`. One process a job; others join it."""

import atexit
import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dstack.api import _places, _ports, _ssh_config
from dstack.api._connection import LOCAL, check_way
from dstack.api._keys import Identity
from dstack.errors import PortUsedError
from dstack.kit.locks import is_locked, locked, take
from dstack.protocol.views import AccessView, RunView

if TYPE_CHECKING:
    from dstack.api._tunnel import Tunnel

UNUSED_DELAY_S = 2.0
"""The time that a job runs before it gets a tunnel that forwards no port, in seconds."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The request to attach to a job.

    Args:
        key: the job's unique key, also a file name.
        host_name: the job's name for `ssh`.
        wanted: container port to local port; None stands for any free one.
        bind_address: the local address to listen at; None for loopback.
        is_explicit: whether the caller chose ports or address, so that the ports of another process do not fit.
        same_machine: whether the server is on this machine.
        reserved: local ports that are bound already.
        identity: the SSH key.
        grant: asks the server to authorize the key.
        await_job: waits until the job runs, in this or a later attempt; returns False if it will not run again.
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
    await_job: Callable[[], bool]


@dataclass(slots=True)
class Attachment:
    """An open attachment to one job. `close` undoes all of it."""

    ports: dict[int, int]
    """Container port to local port."""
    host_name: str
    """The job's name for `ssh`."""
    working_dir: str
    """The folder in which the job's commands start: an absolute path inside the job."""
    _undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def editor_url(self, scheme: str) -> str:
        """Return the link that opens the job's folder in an editor.

        Examples:
            >>> Attachment({}, "desk", "/workflow").editor_url("vscode")
            'vscode://vscode-remote/ssh-remote+desk/workflow'
        """
        if scheme == "zed":
            return f"zed://ssh/{self.host_name}{quote(self.working_dir)}"
        return f"{scheme}://vscode-remote/ssh-remote+{self.host_name}{quote(self.working_dir)}"

    def keep(self, undo: contextlib.ExitStack) -> None:
        """Keep the attachment open until `close` or the end of the interpreter."""
        self._undo = undo
        atexit.register(self.close)

    def close(self) -> None:
        """Close the attachment. Does nothing if it is closed already."""
        self._undo.close()
        atexit.unregister(self.close)


def open_attachment(wish: Wish) -> Attachment:
    """Attach to a job, or join the process of this user that is attached to it.

    Raises:
        PortUsedError: a local port cannot be bound, or another process is attached with other ports.
        SSHError: the tunnel could not be opened.
    """
    access = wish.grant()
    check_way(access, same_machine=wish.same_machine)
    with contextlib.ExitStack() as undo:
        with locked(_folder() / "lock"):
            claim = _Claim(_folder() / f"{wish.key}.json")
            if not claim.is_ours:
                return _joined(wish, access, claim.read())
            undo.callback(claim.release)
            direct, sockets = _bind(wish, access)
            ports = direct | {port: one.getsockname()[1] for port, one in sockets.items()}
            claim.write({"pid": os.getpid(), "ports": ports, "host": wish.host_name})
            _forget_the_dead()
        attachment = Attachment(ports, wish.host_name, access.working_dir)
        name = _Name(wish, attachment)
        undo.callback(name.forget)
        tunnel = _Tunnel(wish, sockets, set(direct.values()), name.lead_to)
        undo.callback(tunnel.close)
        name.lead_to(access)
        tunnel.open(access)
        attachment.keep(undo.pop_all())
        return attachment


def ports_freed_by(run: RunView) -> set[int]:
    """Return the local ports that become free when a run ends.

    Those are the ports of its jobs on this machine, and those of processes that are attached to it.
    """
    direct = {port for job in run.jobs if job.instance and job.instance.hostname in LOCAL for port in job.ports}
    return direct.union(*(_attached_ports(f"{run.id}-{job.replica}-{job.node}") for job in run.jobs))


def _attached_ports(key: str) -> set[int]:
    with locked(_folder() / "lock"):
        claim = _Claim(_folder() / f"{key}.json")
        if not claim.is_ours:
            return set(_ports_in(claim.read()).values())
        claim.forget()
    return set()


class _Tunnel:
    """The tunnel of an attachment. Without ports, it only detects that the job moves, and is opened later: most jobs
    end before.
    """

    def __init__(
        self,
        wish: Wish,
        sockets: dict[int, socket.socket],
        direct: set[int],
        moved: Callable[[AccessView], None],
    ) -> None:
        self._wish = wish
        self._sockets = sockets
        self._direct = direct
        self._moved = moved
        self._tunnel: Tunnel | None = None
        self._later: threading.Timer | None = None

    def open(self, access: AccessView) -> None:
        """Open the tunnel now if ports need it; otherwise later.

        Raises:
            SSHError: the tunnel could not be opened.
        """
        if self._sockets or self._direct:
            self._open(access)
        else:
            self._later = threading.Timer(UNUSED_DELAY_S, self._open, (access,))
            self._later.name = "dstack-later-tunnel"
            self._later.daemon = True
            self._later.start()

    def _open(self, access: AccessView) -> None:
        from dstack.api._tunnel import Tunnel, Way

        wish = self._wish
        way = Way(wish.grant, wish.identity, self._sockets, self._direct, wish.await_job, self._moved)
        self._tunnel = Tunnel(way)
        self._tunnel.open(access)

    def close(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later.join()
        if self._tunnel is not None:
            self._tunnel.close()


class _Name:
    """The entry for the job in OpenSSH's configuration while this process is attached."""

    def __init__(self, wish: Wish, attachment: Attachment) -> None:
        self._wish = wish
        self._attachment = attachment
        self._host: _ssh_config.Host | None = None

    def lead_to(self, access: AccessView) -> None:
        """Write the entry for the job's current address."""
        self.forget()
        self._host = _ssh_config.Host(
            self._wish.host_name,
            access.hostname,
            access.ssh_port,
            access.ssh_user,
            self._wish.identity.path,
            access.host_key,
        )
        _ssh_config.add(self._host)
        self._attachment.working_dir = access.working_dir

    def forget(self) -> None:
        if self._host is not None:
            _ssh_config.remove(self._host)
            self._host = None


class _Claim:
    """A file that names the process attached to a job, and is locked by that process.

    It is created, locked and removed only under the folder's lock, so that no process holds a removed file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = take(path)

    @property
    def is_ours(self) -> bool:
        """Whether this process is the one that is attached."""
        return self._handle is not None

    def read(self) -> dict[str, object]:
        state: dict[str, object] = json.loads(self._path.read_text("utf-8"))
        return state

    def write(self, state: dict[str, object]) -> None:
        assert self._handle is not None
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, json.dumps(state).encode())

    def release(self) -> None:
        with locked(_folder() / "lock"):
            self.forget()

    def forget(self) -> None:
        assert self._handle is not None
        os.close(self._handle)  # first: not every system removes a file that is open
        self._path.unlink(missing_ok=True)


def _forget_the_dead() -> None:
    """Remove the names of jobs whose attached process was killed. Called under the folder's lock."""
    names = set()
    for path in _folder().glob("*.json"):
        if is_locked(path):
            names.add(json.loads(path.read_bytes()).get("host", ""))
        else:
            path.unlink()
    _ssh_config.keep_only(names)


def _folder() -> Path:
    return _places.private_folder(_places.home() / "attached")


def _joined(wish: Wish, access: AccessView, state: dict[str, object]) -> Attachment:
    """Return the attachment of another process, or of another `Run` in this one. Closing it closes nothing."""
    if wish.is_explicit:
        raise PortUsedError(
            f"The run `{wish.host_name}` is attached by process {state['pid']} already, with other ports or address",
            hint="Detach it there first, or attach without naming ports and address to use the same",
        )
    if wish.reserved is not None:
        wish.reserved.release()
    return Attachment(_ports_in(state), wish.host_name, access.working_dir)


def _ports_in(state: dict[str, object]) -> dict[int, int]:
    ports = state["ports"]
    assert isinstance(ports, dict)
    return {int(port): int(local) for port, local in ports.items()}


def _bind(wish: Wish, access: AccessView) -> tuple[dict[int, int], dict[int, socket.socket]]:
    """Return the container ports that need no forward, each with the job's own, and the local sockets of the others.

    If the job's ports are this machine's, `8000:8000` needs no forward: the job itself listens at that port, which
    must stay free. So `*:8000` may not take it either. A replica that got another port listens there.
    """
    host = _ports.address_of(wish.bind_address)
    is_direct = access.hostname in LOCAL and access.shares_network
    own = {port: access.ports.get(port, port) for port in wish.wanted}
    may_be_direct = is_direct and host == _ports.LOOPBACK
    direct = {port: real for port, real in own.items() if may_be_direct and wish.wanted[port] == real}
    rest = [(port, local) for port, local in wish.wanted.items() if port not in direct]
    sockets = _ports.listen_on(host, rest, wish.reserved, taken={*own, *own.values()} if is_direct else ())
    if wish.reserved is not None:
        wish.reserved.release()
    return direct, sockets
