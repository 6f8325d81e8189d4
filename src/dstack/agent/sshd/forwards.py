"""Forwarded connections: bytes between a channel of SSH and a socket inside a job, both ways."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

import asyncssh
from asyncssh import SSHListener, SSHServerConnection, SSHTCPSession

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 1000
"""Of one listener at a time."""
ACCEPT_RETRY_S = 0.1


class _End(asyncio.Protocol):
    """One end of a forward. To asyncio it is a protocol, to asyncssh a session: what they ask of it is the same."""

    def __init__(self, peer: "_End | None" = None, on_end: Callable[[], None] = lambda: None) -> None:
        self._peer = peer
        self._on_end = on_end
        self._transport: Any = None  # asyncio's transport or asyncssh's channel, which share what is used here
        self._has_ended = False
        """Whether its side sends no more."""
        if peer is not None:
            peer._peer = self

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def session_started(self) -> None:
        """The channel is open: what the socket has sent may come."""
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.resume_reading()

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.write(data)

    def eof_received(self) -> bool:
        self._has_ended = True
        peer = self._peer
        if peer is not None and peer._transport is not None:
            peer._transport.write_eof()
            if peer._has_ended and isinstance(peer._transport, asyncio.Transport):  # a channel of SSH closes by itself
                peer._transport.close()
        return True

    def pause_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        peer, self._peer = self._peer, None
        if peer is not None and peer._transport is not None:
            peer._transport.close()
        self._on_end()


async def session_to(connected: socket.socket) -> "SSHTCPSession[bytes]":
    """Return a session that carries the bytes of a channel to a socket, and back."""
    return cast("SSHTCPSession[bytes]", await _other_end_of(connected))


async def relay(client: socket.socket, connected: socket.socket, on_end: Callable[[], None]) -> None:
    """Carry bytes between two sockets, both ways, from now on.

    Args:
        on_end: called once both have ended.

    Raises:
        OSError: the client has left. `on_end` is called, too.
    """
    far = await _other_end_of(connected, on_end)
    try:
        await asyncio.get_running_loop().create_connection(lambda: far, sock=client)
    except BaseException:
        far.connection_lost(None)
        raise
    far.session_started()


async def _other_end_of(connected: socket.socket, on_end: Callable[[], None] = lambda: None) -> _End:
    """Return the end that is still to be connected to something."""
    transport, near = await asyncio.get_running_loop().create_connection(_End, sock=connected)
    transport.pause_reading()
    return _End(near, on_end)


class Listener(SSHListener):
    """Carries connections to a socket inside a job back to the client."""

    def __init__(self, conn: SSHServerConnection, listening: socket.socket, host: str) -> None:
        super().__init__()
        self._conn = conn
        self._host = host
        self._socket = listening
        self._socket.setblocking(False)
        self._port: int = listening.getsockname()[1]
        self._open: set[asyncio.Task[None]] = set()
        self._work = asyncio.create_task(self._accept(), name=f"listens at {self._port} for a client")
        self._work.add_done_callback(lambda _: listening.close())  # not before: the loop watches its number

    def get_port(self) -> int:
        return self._port

    def close(self) -> None:
        self._work.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._work, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._socket)
            except OSError as error:
                log.warning("A connection for a client was not accepted: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if len(self._open) >= CONNECTIONS_MAX:
                accepted.close()
                continue
            task = asyncio.create_task(self._carry(accepted, address), name="a connection for a client")
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _carry(self, accepted: socket.socket, address: tuple[str, int]) -> None:
        session = await session_to(accepted)
        try:
            await self._conn.create_connection(lambda: session, self._host, self._port, *address[:2])
        except (OSError, asyncssh.Error) as error:
            log.info("A connection was not taken by the client: %s", error)
            session.connection_lost(None)
