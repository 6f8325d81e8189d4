"""Listening ports of a network and of processes, as the kernel lists them. Each call blocks for milliseconds."""

import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dstack.agent import processes

PROC = Path("/proc")
TABLES = ("tcp", "tcp6")
LISTENING = "0A"
TABLE_BYTES_MAX = 2 << 20
"""Of one table, about 14,000 sockets. Those that listen come first."""
DESCRIPTORS_MAX = 10_000
"""Of one process."""
PROCESSES_MAX = 1000
"""Of one job."""
_OWN = "self"
_ANY = ("0.0.0.0", "::")
_MAPPED = "::ffff:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a network's table of TCP sockets."""

    host: str
    port: int
    peer_host: str
    peer_port: int
    is_listening: bool
    inode: int

    @property
    def is_open(self) -> bool:
        """Return whether it listens at all addresses of its network."""
        return self.is_listening and self.host in _ANY


def table_of(pid: int | None = None, proc: Path = PROC) -> list[Entry]:
    """Return the TCP sockets of a process's network, or of this one's.

    Raises:
        OSError: there is no such process, or this system has no such tables.
    """
    folder = proc / (_OWN if pid is None else str(pid)) / "net"
    entries = list(_entries(folder / TABLES[0]))
    with suppress(FileNotFoundError):  # the kernel has no IPv6
        entries += _entries(folder / TABLES[1])
    return entries


def ports_in(entries: Iterable[Entry]) -> frozenset[int]:
    """Return the ports at which a network listens."""
    return frozenset(entry.port for entry in entries if entry.is_listening)


def ports_of(pids: Iterable[int], proc: Path = PROC) -> frozenset[int]:
    """Return the ports at which some processes of this host's network listen."""
    inodes = {inode for pid in islice(pids, PROCESSES_MAX) for inode in _sockets_of(pid, proc)}
    return frozenset(one.port for one in table_of(proc=proc) if one.is_listening and one.inode in inodes)


def user_of(port: int, proc: Path = PROC) -> str | None:
    """Return the process that listens at a port of this host, for people; None if the port is free."""
    inodes = {entry.inode for entry in table_of(proc=proc) if entry.is_listening and entry.port == port}
    if not inodes:
        return None
    for pid in processes.pids():
        if not inodes.isdisjoint(_sockets_of(pid, proc)):
            try:
                return f"the process {pid} (`{(proc / str(pid) / 'comm').read_text().strip()}`)"
            except OSError:
                break  # it has ended meanwhile
    return "another process"


def leads_to(connected: socket.socket, entries: Collection[Entry]) -> bool:
    """Return whether the other end of a connection is in a network.

    Addresses of containers are not unique: several engines on one host give the same ones.

    Args:
        entries: the sockets of that network.
    """
    host, port = connected.getsockname()[:2]
    return any(entry.peer_port == port and entry.peer_host == host for entry in entries)


def _sockets_of(pid: int, proc: Path) -> Iterator[int]:
    """Yield the inodes of a process's sockets; nothing if it has ended, or is another user's."""
    folder = proc / str(pid) / "fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names[:DESCRIPTORS_MAX]:
        try:
            target = os.readlink(folder / name)
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _entries(table: Path) -> Iterator[Entry]:
    with open(table, "rb") as file:
        whole_lines = file.read(TABLE_BYTES_MAX).rpartition(b"\n")[0]
    for line in whole_lines.decode().splitlines()[1:]:
        words = line.split()
        (host, port), (peer_host, peer_port) = (_endpoint(word) for word in words[1:3])
        yield Entry(host, port, peer_host, peer_port, words[3] == LISTENING, int(words[9]))


def _endpoint(text: str) -> tuple[str, int]:
    """Return address and port: the address is in words of 32 bits, each in this machine's order of bytes.

    Examples:
        >>> _endpoint("0100007F:1F90")
        ('127.0.0.1', 8080)
        >>> _endpoint("0000000000000000FFFF00000100007F:0050")
        ('127.0.0.1', 80)
    """
    address, _, port = text.partition(":")
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    host = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
    return host.removeprefix(_MAPPED), int(port, 16)
