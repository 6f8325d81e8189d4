"""The ports of process replicas: the first on a host has the configured one, each other one a free one."""

import errno
import socket
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

from dstack.errors import HostTrouble

FIRST, LAST = 20000, 32767
"""Those that are given away. By default the system gives away 32768 and more by itself."""
RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def choose_port(job_id: str, configured: int, held: Collection[int], last: int, is_free: Callable[[int], bool]) -> int:
    """Return the port of a new replica.

    Replicas begin to search at different places, so that a port is not given away again at once. A late request for a
    replica that has ended then meets no other one.

    Args:
        held: the ports of the other jobs of this host.
        last: the last port that may be given away instead of the configured one.

    Raises:
        HostTrouble: no port is free.

    Examples:
        >>> choose_port("a", 8000, {}, 20009, lambda port: True)
        8000
        >>> choose_port("a", 8000, {8000}, 20009, lambda port: port == 20007)
        20007
    """
    if configured not in held and is_free(configured):
        return configured
    count = last - FIRST + 1
    begin = zlib.crc32(job_id.encode())
    for number in range(count):
        port = FIRST + (begin + number) % count
        if port != configured and port not in held and is_free(port):
            return port
    raise HostTrouble(f"No port from {FIRST} to {last} is free", hint="End programs that listen at those ports")


def last_port(path: Path = RANGE_FILE) -> int:
    """Return the last port below those that the system gives away. If there is no room below them, it is not minded."""
    try:
        lowest = int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return LAST
    return LAST if lowest <= FIRST else min(LAST, lowest - 1)


def is_free(port: int) -> bool:
    """Return whether nothing listens at a port of this host, at any address. Blocks for a moment."""
    return all(_can_listen(family, port) for family in (socket.AF_INET, socket.AF_INET6))


def _can_listen(family: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
            if family is socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind(("", port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE  # the kernel may lack IPv6, or this user the right to a low port
    return True
