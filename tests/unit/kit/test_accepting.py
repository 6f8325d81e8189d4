"""Connections of a listening socket that may be shared, stopped and closed."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from dstack.kit.accepting import Acceptor
from tests.patience import PATIENCE_S


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.fixture
async def acceptor() -> AsyncIterator[Acceptor]:
    made = Acceptor(socket.create_server(("127.0.0.1", 0)), Echo)
    yield made
    made.close()


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"hello\n")
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readline()


async def test_connections_outlive_a_stop_and_new_ones_wait_for_the_next_start(acceptor: Acceptor) -> None:
    address = acceptor.listener.getsockname()
    acceptor.start()
    first = await asyncio.open_connection(*address)
    assert await echoed(*first) == b"hello\n"
    acceptor.stop()
    second = await asyncio.open_connection(*address)
    assert await echoed(*first) == b"hello\n"
    acceptor.start()
    assert await echoed(*second) == b"hello\n"
    for _, writer in (first, second):
        writer.close()
        await writer.wait_closed()


async def test_closed_acceptor_does_not_start_again(acceptor: Acceptor) -> None:
    address = acceptor.listener.getsockname()
    acceptor.start()
    acceptor.close()
    acceptor.start()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
