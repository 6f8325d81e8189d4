"""Connections of a listening socket that several processes share.

A server of asyncio drops connections that it accepts while it is closed. An acceptor can stop and go on at any time.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

from dstack.kit.tasks import TaskGroup

log = logging.getLogger(__name__)

AT_ONCE = 64
AFTER_TROUBLE_S = 1.0
"""A process without free descriptors accepts again after so long."""


class Acceptor:
    """Accepts connections, and gives each a protocol."""

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """Args: `listener`: stays open when the acceptor stops."""
        listener.setblocking(False)
        self.listener = listener
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._tasks = TaskGroup()
        self.is_on = False
        """Whether it accepts."""

    def start(self) -> None:
        """Accept from now on, unless it is closed."""
        if self.listener.fileno() < 0:
            return
        self.is_on = True
        self._loop.add_reader(self.listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more. Connections that are accepted go on."""
        self.is_on = False
        self._loop.remove_reader(self.listener.fileno())

    def close(self) -> None:
        """Accept no more, and close the listening socket of this process."""
        if self.listener.fileno() >= 0:
            self.stop()
            self.listener.close()

    async def finish(self) -> None:
        """Wait until each connection that was accepted has its protocol."""
        await self._tasks.finish()

    async def take(self, sock: socket.socket, received: bytes) -> None:
        """Take a connection of another process over.

        Args:
            received: the bytes that were read already; the protocol gets them before all that follow.
        """
        first = _First(received)
        transport = await self._connect(sock, lambda: first)
        if transport is None or first.is_lost:
            return
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(first.received)
        if first.has_ended and not protocol.eof_received():
            transport.close()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _ = self.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors are left
                log.error("No connections can be accepted: %s", error)
                self._loop.remove_reader(self.listener.fileno())
                self._loop.call_later(AFTER_TROUBLE_S, self._go_on)
                return
            self._tasks.start("connection", self._begin(sock))

    def _go_on(self) -> None:
        if self.is_on:
            self.start()

    async def _begin(self, sock: socket.socket) -> None:
        await self._connect(sock, self._make)

    async def _connect(self, sock: socket.socket, make: Callable[[], asyncio.Protocol]) -> asyncio.Transport | None:
        """Give a connection a protocol; return None where the client has left."""
        sock.setblocking(False)
        try:
            transport, _ = await self._loop.connect_accepted_socket(make, sock)
        except OSError:
            sock.close()
            return None
        return transport


class _First(asyncio.Protocol):
    """The protocol of a connection that is taken over, until its own one can follow.

    A transport of uvloop reads as soon as it is made, and a pause that `connection_made` asks for has no effect there.
    """

    def __init__(self, received: bytes) -> None:
        self.received = received
        self.has_ended = self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.has_ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
