"""Sockets of the agent and of the SSH server beside it: where they listen, and connections to ports of jobs."""

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from dstack.agent.paths import make_private_folder

CONNECT_TIMEOUT_S = 10.0
LOOPBACKS = ("127.0.0.1", "::1")


def bind_private(path: Path) -> socket.socket:
    """Return a unix socket that only this user can reach. One that lies there is replaced: the agent's lock is held.

    Raises:
        ConfigurationError: its folder is another user's.
        OSError: it cannot be bound.
    """
    make_private_folder(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError:
        listener.close()
        raise
    return listener


def addresses_of(host: str) -> tuple[str, ...]:
    """Return the address, or both loopbacks, first the one that is meant: a server may listen at either of them.

    Names are not looked up: that would load libraries of a container.

    Raises:
        ValueError: the host is neither an address nor `localhost`.

    Examples:
        >>> addresses_of("localhost"), addresses_of("::1"), addresses_of("10.0.0.1")
        (('127.0.0.1', '::1'), ('::1', '127.0.0.1'), ('10.0.0.1',))
    """
    if host == "localhost":
        return LOOPBACKS
    address = str(ipaddress.ip_address(host))
    return tuple(sorted(LOOPBACKS, key=lambda one: one != address)) if address in LOOPBACKS else (address,)


def socket_for(address: str) -> socket.socket:
    """Return a new socket that can connect to an address."""
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


async def connect_to(
    addresses: Sequence[str], port: int, timeout_s: float = CONNECT_TIMEOUT_S
) -> tuple[socket.socket, str]:
    """Connect to a port at the first of some addresses that accepts. Returns the socket, and that address.

    Args:
        addresses: of the host's own network; at least one.
        timeout_s: for each.

    Raises:
        OSError: none accepts; the error of the first one.
    """
    refused: OSError | None = None
    for address in addresses:
        made = socket_for(address)
        made.setblocking(False)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(made, (address, port))
            if (
                made.getsockname() == made.getpeername()
            ):  # it has met itself: the port is one that the system gives away
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made, address
        except OSError as error:  # a time-out is one too
            made.close()
            refused = refused or error
        except BaseException:
            made.close()
            raise
    assert refused is not None, "there is always an address"
    raise refused


def refusal_text(error: OSError, port: int) -> str:
    """Return why a connection to a port of a job failed, for people."""
    if isinstance(error, TimeoutError):
        return f"port {port} did not accept a connection in time"
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens at port {port}"
    return f"port {port} cannot be reached: {error.strerror or error}"
