"""Connections of requests that wait in a data plane: the next one gets them if it is lost.

A data plane releases a request before it sends it on, so that none runs twice.
"""

import socket
from collections.abc import Iterable


class HeldConnections:
    """The connections that the present data plane, or a lost one, has left here."""

    def __init__(self) -> None:
        self._pid = 0
        """The process of the data plane."""
        self._kept: dict[int, tuple[socket.socket, bytes]] = {}

    def meet(self, pid: int) -> list[tuple[socket.socket, bytes]]:
        """Note the data plane that is served from now on; return the connections for it that a lost one has left."""
        if pid == self._pid:
            self.clear()  # it was not lost: it still has them, and reports them again
        self._pid = pid
        return self.take()

    def keep(self, id: int, sock: socket.socket, received: bytes) -> None:
        """Keep a connection, with the bytes that were read of its next requests."""
        self._kept[id] = sock, received

    def release(self, ids: Iterable[int]) -> None:
        """Close connections in this process: the data plane goes on with them."""
        for id in ids:
            sock, _ = self._kept.pop(id)
            sock.close()

    def take(self) -> list[tuple[socket.socket, bytes]]:
        """Return all connections, and keep none."""
        kept, self._kept = self._kept, {}
        return list(kept.values())

    def clear(self) -> None:
        """Release all connections."""
        self.release(list(self._kept))
