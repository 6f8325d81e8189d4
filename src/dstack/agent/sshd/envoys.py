"""Small processes that enter a container, do one thing there, and hand back the socket that came of it.

Only a process of its own can enter other mounts, and one with an event loop should not fork. So the SSH server forks a
process that is small and has one thread, before it is anything else itself; that one forks an envoy for each wish.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import socket
import struct
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dstack.agent.connecting import CONNECT_TIMEOUT_S, addresses_of, socket_for
from dstack.agent.sshd.opening import RegularFiles
from dstack.agent.sshd.sftp import SftpServer

REPLY_TIMEOUT_S = 20.0
MESSAGE_BYTES_MAX = 64 << 10
DESCRIPTORS_MAX = 1 << 16
LINE_DESCRIPTOR = 3
BACKLOG = 64

CONNECT, CONNECT_UNIX, LISTEN, LISTEN_UNIX, FILES = "connect", "connect_unix", "listen", "listen_unix", "files"

_NAMESPACES = {"user": 0x10000000, "mnt": 0x00020000, "net": 0x40000000}
"""In the order in which they are entered, with the flags of `setns`."""
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 4, 38, 24
_CAPABILITIES_VERSION = 0x20080522
_CAPABILITIES = 64
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an envoy goes, and as whom."""

    container_id: str | None = None
    """None for this very host, as this very user."""
    pid: int = 0
    """A process of the container, as the host numbers it."""
    uid: int = 0
    gid: int = 0
    folder: str = "/"


class Envoys:
    """Has things done by envoys."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    async def do(self, wish: str, place: Place, **details: str | int) -> socket.socket:
        """Have one thing done.

        Args:
            wish: `connect` (host, port), `connect_unix` (path), `listen` (port), `listen_unix` (path), or `files`,
                whose socket speaks SFTP.

        Raises:
            OSError: it could not be done.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                message = json.dumps({"wish": wish, "place": asdict(place), **details}).encode()
                socket.send_fds(self._line, [message], [theirs.fileno()])
            ours.setblocking(False)
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await _readable(ours)
            received, descriptors, _, _ = socket.recv_fds(ours, MESSAGE_BYTES_MAX, 1)
        reply = json.loads(received) if received else {"error": "The envoy was killed", "number": 0}
        if "error" in reply:
            raise OSError(reply["number"], reply["error"])
        return socket.socket(fileno=descriptors[0])

    async def gone(self) -> None:
        """Wait until nothing can be done any more: the process that forks envoys says nothing, so it has ended."""
        await _readable(self._line)


def fork_envoys() -> Envoys:
    """Fork the process that forks envoys; it ends with this one. Must be called while this has one thread."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            _live(theirs)
        except BaseException:  # noqa: BLE001 - this fork must never go back into the server's code
            traceback.print_exc()
        finally:
            os._exit(0)
    theirs.close()
    return Envoys(ours)


async def _readable(waited: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(waited, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(waited)


def _live(line: socket.socket) -> None:
    descriptor = line.detach()
    if descriptor != LINE_DESCRIPTOR:
        os.dup2(descriptor, LINE_DESCRIPTOR, inheritable=False)
    for standard in (0, 1):
        os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), standard)
    os.closerange(LINE_DESCRIPTOR + 1, DESCRIPTORS_MAX)
    line = socket.socket(fileno=LINE_DESCRIPTOR)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, MESSAGE_BYTES_MAX, 1)
        if not message:
            return
        reply = socket.socket(fileno=descriptors[0])
        try:
            child = os.fork()
        except OSError as error:  # no process is left for it; the next wish may have one
            with suppress(OSError):  # whoever asked has gone meanwhile
                reply.send(json.dumps({"error": error.strerror, "number": error.errno}).encode())
            child = -1
        if child == 0:
            try:
                line.close()
                _help(reply, json.loads(message))
            except BaseException:  # noqa: BLE001 - this fork must never go back into the loop
                traceback.print_exc()
            finally:
                os._exit(0)
        reply.close()


def _help(reply: socket.socket, wish: dict[str, Any]) -> None:
    ours: socket.socket | None = None
    try:
        files = RegularFiles()
        enter(Place(**wish["place"]))
        if wish["wish"] == FILES:
            ours, made = socket.socketpair()
        else:
            made = _socket_of(wish)
    except OSError as error:
        said = {"error": error.strerror or str(error), "number": error.errno or 0}
        reply.send(json.dumps(said).encode())
        return
    socket.send_fds(reply, [b"{}"], [made.fileno()])
    reply.close()
    made.close()
    if ours is not None:
        SftpServer(ours.fileno(), ours.fileno(), files).serve()


def _socket_of(wish: dict[str, Any]) -> socket.socket:
    match wish["wish"]:
        case "connect":
            return _connected(str(wish["host"]), int(wish["port"]))
        case "connect_unix":
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(CONNECT_TIMEOUT_S)
            made.connect(str(wish["path"]))
        case "listen":
            made = socket.socket(socket.AF_INET)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("127.0.0.1", int(wish["port"])))
            made.listen(BACKLOG)
        case "listen_unix":
            path = Path(str(wish["path"]))
            path.parent.mkdir(mode=0o700)
            made = socket.socket(socket.AF_UNIX)
            made.bind(str(path))
            path.chmod(0o600)
            made.listen(BACKLOG)
        case other:
            raise OSError(0, f"unknown wish {other}")
    made.setblocking(False)
    return made


def _connected(host: str, port: int) -> socket.socket:
    """A connection to an address. The names of a loopback stand for both: a server may listen at either of them.

    Raises:
        OSError: nobody answers at the address, or at the first of two.
    """
    refused: OSError | None = None
    for address in addresses_of(host):
        made = socket_for(address)
        made.settimeout(CONNECT_TIMEOUT_S)
        try:
            made.connect((address, port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        except OSError as error:
            made.close()
            refused = refused or error
    assert refused is not None, "there is always an address"
    raise refused


def enter(place: Place) -> None:
    """Become a process inside a container, with its user's rights and no others.

    Raises:
        OSError: the container is gone, or this user may not enter it.
    """
    if place.container_id is None:
        os.chdir(place.folder)
        return
    alive = os.pidfd_open(place.pid)
    namespaces = _open_namespaces(place)
    capabilities = _permitted(place.pid)
    # Pids are used again: all that was read is of one process only if that still lives.
    signal.pidfd_send_signal(alive, 0)
    os.close(alive)
    for kind, descriptor in namespaces.items():
        _check(_libc.setns(descriptor, _NAMESPACES[kind]))
        os.close(descriptor)
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _drop_bounding(capabilities)
    os.setgroups([place.gid])
    os.setresgid(place.gid, place.gid, place.gid)
    os.setresuid(place.uid, place.uid, place.uid)
    # In a user namespace of its own, another user would keep them all.
    _limit(capabilities if place.uid == 0 else 0)
    os.chdir("/")
    try:
        os.chdir(place.folder)
    except OSError:
        return  # `/` will do


def _open_namespaces(place: Place) -> dict[str, int]:
    """The namespaces to enter, after a look whether they are the container's."""
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in _NAMESPACES}
    found = {
        kind: os.open(f"/proc/{place.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        for kind in _NAMESPACES
        if os.readlink(f"/proc/{place.pid}/ns/{kind}") != own[kind]
    }
    groups = Path(f"/proc/{place.pid}/cgroup").read_text()
    if not place.container_id or place.container_id not in groups or "mnt" not in found:
        raise ProcessLookupError(3, "the container no longer exists")
    return found


def _permitted(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    raise ProcessLookupError(3, "the container no longer exists")


def _drop_bounding(kept: int) -> None:
    for number in range(_CAPABILITIES):
        if not kept >> number & 1:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # those that this kernel does not know fail


def _limit(kept: int) -> None:
    """Root of the container may do what the container may, not what the host's root may."""
    header = struct.pack("Ii", _CAPABILITIES_VERSION, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _check(_libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
