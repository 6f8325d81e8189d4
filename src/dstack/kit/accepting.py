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
        self._is_on = False

    def start(self) -> None:
        """Accept from now on, unless it is closed."""
        if self.listener.fileno() < 0:
            return
        self._is_on = True
        self._loop.add_reader(self.listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more. Connections that are accepted go on."""
        self._is_on = False
        self._loop.remove_reader(self.listener.fileno())

    def close(self) -> None:
        """Accept no more, and close the listening socket of this process."""
        if self.listener.fileno() >= 0:
            self.stop()
            self.listener.close()

    async def finish(self) -> None:
        """Wait until each connection that was accepted has its protocol."""
        await self._tasks.finish()

    async def take(self, sock: socket.socket) -> asyncio.Protocol | None:
        """Give a connection its protocol; return None where the client has left."""
        sock.setblocking(False)
        try:
            _, protocol = await self._loop.connect_accepted_socket(self._make, sock)
        except OSError:
            sock.close()
            return None
        return protocol

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
        if self._is_on:
            self.start()

    async def _begin(self, sock: socket.socket) -> None:
        await self.take(sock)
