"""Local ports: bound before a submit, so that a port in use is found before anything is created.

A port that differs from the container's is bound at once and held until `attach` serves it. `8000:8000` is only
checked: a job on this machine must be able to bind it. `*:80` is bound by `attach`.
"""

import errno
import socket
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence

from dstack.errors import ConfigurationError, PortUsedError
from dstack.kit.addresses import reason_of
from dstack.spec.ports import PortMapping

LOOPBACK, LOOPBACK_6 = "127.0.0.1", "::1"
NEXT_PORTS_TRIED = 100
ALONE = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
"""Lets a port that was just closed be used again; on Windows, where this would share any port, it excludes others."""
TAKEN = (errno.EADDRINUSE, errno.EACCES, errno.EPERM)


def address_of(bind_address: str | None) -> str:
    """Return the address to listen at: `bind_address` without brackets; loopback for None and `localhost`."""
    return (
        LOOPBACK if bind_address in (None, "", "localhost") else str(bind_address).removeprefix("[").removesuffix("]")
    )


class Reservation:
    """The local ports of one run. Ports that can be bound before `attach` are held."""

    def __init__(self, wanted: Mapping[int, int | None]) -> None:
        """Bind or check each port on loopback.

        Args:
            wanted: container port to local port; None stands for any.

        Raises:
            PortUsedError: a port is in use or not permitted; no port is held then.
        """
        self.wanted = dict(wanted)
        self._held: dict[int, socket.socket] = {}
        weakref.finalize(self, _close_all, self._held)
        try:
            for container_port, local_port in self.wanted.items():
                if local_port is not None:
                    bound = bind(LOOPBACK, local_port, container_port)
                    if local_port == container_port:
                        bound.close()
                    else:
                        self._held[container_port] = bound
        except PortUsedError:
            self.release()
            raise

    def take(self, container_port: int, host: str) -> socket.socket | None:
        """Return the socket that is held for the port on that host; None without one."""
        held = self._held.pop(container_port, None)
        if held is None or host == LOOPBACK:
            return held
        held.close()
        return None

    def release(self) -> None:
        """Close all sockets that `take` has not returned."""
        _close_all(self._held)


def listen_on(
    host: str, wanted: Iterable[tuple[int, int | None]], held: Reservation | None, taken: Collection[int] = ()
) -> dict[int, socket.socket]:
    """Bind a local port for each container port, and return container port to socket.

    Args:
        host: the address to listen at.
        wanted: pairs of container port and local port; None stands for the container's own port or the next free one.
        held: ports that were bound before.
        taken: local ports that are needed otherwise, and not used for None.

    Raises:
        PortUsedError: a port is in use or not permitted; no port is bound then.
    """
    bound: dict[int, socket.socket] = {}
    try:
        for container_port, local_port in wanted:
            before = held.take(container_port, host) if held else None
            if before is not None:
                bound[container_port] = before
            elif local_port is not None:
                bound[container_port] = bind(host, local_port, container_port)
            else:
                bound[container_port] = bind_next_free(host, container_port, taken)
    except PortUsedError:
        _close_all(bound)
        raise
    return bound


def bind(host: str, port: int, container_port: int) -> socket.socket:
    """Return a socket that listens at the port. Connections wait until the socket is served.

    The port must be free at the other loopback address too: `localhost` stands for both.

    Raises:
        PortUsedError: the port is in use or not permitted.
    """
    if host == LOOPBACK and port:
        _check_other_loopback(port, container_port)
    return bind_alone(host, port, container_port)


def bind_alone(host: str, port: int, container_port: int | None = None) -> socket.socket:
    """Return a socket that listens at the port, without a check of the other loopback address.

    Raises:
        PortUsedError: the port is in use or not permitted.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound: socket.socket | None = None
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, ALONE, 1)
        bound.bind((host, port))
        # With SO_REUSEADDR two sockets may share a port until one of them listens.
        bound.listen(0)
    except (OSError, ValueError) as error:  # a malformed host raises `ValueError`
        if bound is not None:
            bound.close()
        raise _port_error(host, port, container_port or port, error) from error
    return bound


def _check_other_loopback(port: int, container_port: int) -> None:
    try:
        bind_alone(LOOPBACK_6, port, container_port).close()
    except PortUsedError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            raise  # any other error means that this machine has no IPv6


def bind_next_free(host: str, container_port: int, taken: Collection[int] = ()) -> socket.socket:
    """Return a socket that listens at the container's port, the next free one, or any if none of those is free."""
    for port in range(max(container_port, 1024), min(container_port + NEXT_PORTS_TRIED, 65536)):
        if port in taken:
            continue
        try:
            return bind(host, port, container_port)
        except PortUsedError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in TAKEN):
                raise  # other ports would fail too
    return bind(host, 0, container_port)


def _close_all(sockets: dict[int, socket.socket]) -> None:
    for one in sockets.values():
        one.close()
    sockets.clear()


def _port_error(host: str, port: int, container_port: int, error: Exception) -> PortUsedError:
    other = port + 1 if 1024 <= port < 65535 else 8000 + port % 1000
    advice = f"Use another local port, such as `{other}:{container_port}`, or any with `*:{container_port}`"
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return PortUsedError(f"The local port {port} is in use on `{host}`", hint=advice)
    if number in (errno.EACCES, errno.EPERM):
        return PortUsedError(f"The local port {port} may not be used by this user", hint=advice)
    advice = "Listen at an address of this machine, such as `127.0.0.1` or `::1`"
    return PortUsedError(f"The local port {port} cannot be used on `{host}`: {reason_of(error)}", hint=advice)


def overrides(ports: Sequence[PortMapping | str] | None) -> dict[int, int | None]:
    """Return container port to local port, None for any, of port mappings such as `8001:80`.

    Raises:
        ConfigurationError: a mapping is malformed.
    """
    try:
        mappings = [PortMapping.parse(port) for port in ports or ()]
    except ValueError as error:
        raise ConfigurationError(f"A port cannot be understood: {error}") from error
    return {mapping.container_port: mapping.local_port for mapping in mappings}
