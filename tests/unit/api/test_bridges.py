"""Ports of a server that listens at `::1` alone, with real sockets."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from dstack.api import _ports
from dstack.api._bridges import Bridge, listens_at_6_alone
from dstack.errors import PortUsedError


@pytest.fixture
def at_6() -> Iterator[socket.socket]:
    """A server at `::1`, and at no other address."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        yield server


async def talk(port: int, text: bytes) -> bytes:
    """What the server says to a text, once somebody listens at 127.0.0.1."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
            continue
        writer.write(text)
        writer.write_eof()
        said = await reader.read()
        writer.close()
        return said


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    writer.close()


def test_a_server_at_the_other_loopback_alone_is_reached_until_it_ends(at_6: socket.socket) -> None:
    port = at_6.getsockname()[1]

    async def body() -> None:
        server = await asyncio.start_server(shout, sock=at_6)
        keeping = asyncio.create_task(Bridge(port).keep())
        async with asyncio.timeout(30):
            assert await talk(port, b"hello") == b"HELLO"
            server.close()
            while "127.0.0.1 is used":
                try:
                    socket.create_server(("127.0.0.1", port)).close()
                    break
                except OSError:
                    await asyncio.sleep(0.01)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(body())


def test_a_server_at_both_loopbacks_is_left_alone(at_6: socket.socket) -> None:
    port = at_6.getsockname()[1]
    assert listens_at_6_alone(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not listens_at_6_alone(port)


def test_a_port_that_somebody_uses_at_the_other_loopback_is_in_use(at_6: socket.socket) -> None:
    port = at_6.getsockname()[1]
    with pytest.raises(PortUsedError) as caught:
        _ports.Reservation({80: port})
    assert caught.value.message == f"The local port {port} is in use on `::1`"
    with _ports.bind_next_free("127.0.0.1", port) as next_one:
        assert next_one.getsockname()[1] != port
