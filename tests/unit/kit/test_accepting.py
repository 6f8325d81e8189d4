"""Connections of a listening socket that may be shared, stopped and closed."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from dstack.kit.accepting import Acceptor
from tests.patience import PATIENCE_S

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
except ImportError:  # Windows
    pass


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


class Kept(asyncio.Protocol):
    """Keeps what it receives, and reads no more behind its first bytes until it is allowed to."""

    def __init__(self) -> None:
        self.received = b""
        self.has_ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.transport.pause_reading()
        self.received += data

    def eof_received(self) -> bool:
        self.has_ended.set()
        return False


@pytest.mark.parametrize("loop", LOOPS)
def test_bytes_of_a_connection_that_is_taken_over_keep_their_order(loop: str) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            sock, _ = listener.accept()
            client.sendall(b"two ")  # these bytes are there before the protocol is
            protocol = Kept()
            await Acceptor(listener, lambda: protocol).take(sock, b"one ")
            first = protocol.received
            client.sendall(b"three")
            for _ in range(10):
                await asyncio.sleep(0)
            assert protocol.received == first, "it is not to read on"
            protocol.transport.resume_reading()
            client.close()
            async with asyncio.timeout(PATIENCE_S):
                await protocol.has_ended.wait()
            assert protocol.received == b"one two three"

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test())


@pytest.mark.parametrize("loop", LOOPS)
def test_end_of_a_connection_that_is_taken_over_is_reported_behind_its_first_bytes(loop: str) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            sock, _ = listener.accept()
            client.close()
            protocol = Kept()
            await Acceptor(listener, lambda: protocol).take(sock, b"one")
            protocol.transport.resume_reading()
            async with asyncio.timeout(PATIENCE_S):
                await protocol.has_ended.wait()
            assert protocol.received == b"one"

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test())
