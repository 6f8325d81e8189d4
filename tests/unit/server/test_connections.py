"""Who connects and does not say what it wants, or says too much, costs little and shuts nobody out."""

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dstack.server import connections
from dstack.server.connections import HEAD_BYTES_MAX, HEADERS_MAX, Connection, Lobby, connections_of

HELLO = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
FOR_DATA_PLANE = b"GET /proxy/services/main/web/ HTTP/1.1\r\nHost: x\r\n\r\n"
NO_HTTP = b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"
PATIENCE_S = 20.0
Serve = Callable[..., Any]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body."""
    body = await Request(scope, receive).body()
    await Response(str(len(body)))(scope, receive, send)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server with a lobby of given size; returns its port."""
    running: list[uvicorn.Server] = []

    async def start(app: ASGIApp = app, **bounds: Any) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        protocol = connections_of(Lobby(**bounds))
        config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        running.append(server)
        return int(listener.getsockname()[1])

    yield start
    for server in running:
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await server.shutdown()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def answer_of(reader: StreamReader) -> tuple[int, bytes]:
    """The status and the body of the next answer."""
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        return int(head.split()[1]), await reader.readexactly(int(length.partition(b":")[2]))


async def asked(port: int, *parts: bytes) -> tuple[int, bytes]:
    """The answer to what is sent, part by part."""
    async with connected(port) as (reader, writer):
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        return await answer_of(reader)


LINE = b"x: " + b"y" * 1000 + b"\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
TOO_MUCH = {
    "one header without end": (b"GET / HTTP/1.1\r\nx: ", *[b"y" * 65536] * 64),
    "headers without end": (b"GET / HTTP/1.1\r\n", *[LINE * 60] * 64),
    "many small headers": (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (HEADERS_MAX + 1) + b"\r\n",),
    "a URL without end": (b"GET /", *[b"y" * 65536] * 64),
    "empty lines without end": (*[b"\r\n" * 32768] * 64,),
    "trailers without end": (CHUNKED + b"1\r\nx\r\n0\r\nx: ", *[b"y" * 65536] * 64),
    "an extension of a chunk without end": (CHUNKED + b"1;", *[b"y" * 65536] * 64),
    "a second request's head": (HELLO, b"GET / HTTP/1.1\r\nx: ", *[b"y" * 65536] * 64),
}


@pytest.mark.parametrize("parts", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_head_that_is_too_large_is_refused_before_it_is_parsed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    parsed = 0
    feed = HttpToolsProtocol.data_received

    def count(self: Any, data: bytes) -> None:
        nonlocal parsed
        parsed += len(data)
        feed(self, data)

    monkeypatch.setattr(HttpToolsProtocol, "data_received", count)
    port = await serve()
    async with connected(port) as (reader, writer):
        if parts[0] == HELLO:
            writer.write(HELLO)
            assert await answer_of(reader) == (200, b"0")
            parts = parts[1:]
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        status, body = await answer_of(reader)
    assert (status, b'"status":431' in body) == (431, True)
    assert parsed <= 8 * HEAD_BYTES_MAX
    assert await asked(port, HELLO) == (200, b"0")


async def test_a_large_body_is_not_a_large_head(serve: Serve) -> None:
    port = await serve()
    size = 20 * HEAD_BYTES_MAX
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    assert await asked(port, head + b"x" * size) == (200, str(size).encode())
    chunk = b"%x\r\n%s\r\n" % (size // 2, b"x" * (size // 2))
    assert await asked(port, CHUNKED, chunk, chunk, b"0\r\n\r\n") == (200, str(size).encode())
    small = b"1\r\nx\r\n" * HEAD_BYTES_MAX
    assert await asked(port, CHUNKED, small, b"0\r\n\r\n") == (200, str(HEAD_BYTES_MAX).encode())


async def test_what_is_no_http_is_refused(serve: Serve) -> None:
    status, body = await asked(await serve(), NO_HTTP)
    assert (status, b"This is not an HTTP request" in body) == (400, True)


LATE = {
    "nothing": (),
    "half a head": (b"GET / HTTP/1.1\r\nHo",),
    "half a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",),
    "half a second head": (HELLO, b"GET / HT"),
    "an empty line after an answer": (HELLO, b"\r\n"),
}


@pytest.mark.parametrize("parts", LATE.values(), ids=LATE)
async def test_a_request_that_does_not_arrive_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connections, "BODY_TIMEOUT_S", 0.2)
    async with connected(await serve()) as (reader, writer):
        for part in parts:
            writer.write(part)
            if part == HELLO:
                assert await answer_of(reader) == (200, b"0")
        assert (await answer_of(reader))[0] == 408
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""


@pytest.mark.parametrize("bounds", [{"connections_max": 50}, {"waiting_max": 50}])
async def test_open_connections_that_ask_nothing_shut_nobody_out(serve: Serve, bounds: dict[str, int]) -> None:
    port = await serve(**bounds)
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(260)]
    assert [await asked(port, HELLO) for _ in range(3)] == [(200, b"0")] * 3
    gone = [asyncio.create_task(reader.read()) for reader, _ in silent[:200]]
    await asyncio.wait_for(asyncio.gather(*gone, return_exceptions=True), PATIENCE_S)
    for _, writer in silent:
        writer.close()


async def test_a_server_that_only_serves_says_so_to_who_comes_next(serve: Serve) -> None:
    port = await serve(connections_max=2)
    async with connected(port) as (first, ask_first), connected(port) as (second, ask_second):
        for reader, writer in ((first, ask_first), (second, ask_second)):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                await reader.readuntil(b"100 Continue\r\n\r\n")
        async with connected(port) as (reader, writer):
            status, body = await answer_of(reader)
            assert (status, b"as many connections as it can hold" in body) == (503, True)
        ask_first.write(b"hello")
        assert await answer_of(first) == (200, b"5")


def be_late_after(monkeypatch: pytest.MonkeyPatch, event: str) -> None:
    """Have the time of a connection be over with each event of this name."""
    happen = getattr(Connection, event)

    def happen_late(self: Connection, *data: bytes) -> None:
        happen(self, *data)
        if self._has_head or self.flow.read_paused:
            self._late()

    monkeypatch.setattr(Connection, event, happen_late)


async def test_body_that_comes_slowly_but_steadily_is_taken(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_PART_BYTES", 3)
    be_late_after(monkeypatch, "on_body")
    port = await serve()
    assert await asked(port, CHUNKED + b"3\r\nabc\r\n" * 20 + b"0\r\n\r\n") == (200, b"60")
    assert (await asked(port, CHUNKED + b"2\r\nab\r\n" * 20 + b"0\r\n\r\n"))[0] == 408


class Gate:
    """An application that begins each answer and ends it when it may."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.may_end = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        self.begun.release()
        async with asyncio.timeout(PATIENCE_S):
            await self.may_end.acquire()
        await send({"type": "http.response.body", "body": b"cd"})


async def test_connection_with_a_second_request_under_way_does_not_give_way(serve: Serve) -> None:
    gate = Gate()
    port = await serve(gate, waiting_max=1)
    async with connected(port) as (reader, writer):
        writer.write(HELLO * 2)
        await gate.begun.acquire()
        gate.may_end.release()
        assert await answer_of(reader) == (200, b"abcd")
        await gate.begun.acquire()
        assert (await asked(port, NO_HTTP))[0] == 400
        gate.may_end.release()
        assert await answer_of(reader) == (200, b"abcd")


async def test_refusal_does_not_break_into_the_answer_to_an_earlier_request(serve: Serve) -> None:
    gate = Gate()
    port = await serve(gate)
    async with connected(port) as (reader, writer):
        writer.write(HELLO)
        await gate.begun.acquire()
        writer.write(HELLO + NO_HTTP)
        begun = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert begun.endswith(b"\r\n\r\nab")
        gate.may_end.release()


async def test_request_that_is_not_read_yet_is_not_late(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    be_late_after(monkeypatch, "data_received")
    gate = Gate()
    port = await serve(gate)
    async with connected(port) as (reader, writer):
        writer.write(HELLO)
        await gate.begun.acquire()
        writer.write(HELLO + HELLO[:5])
        gate.may_end.release()
        assert await answer_of(reader) == (200, b"abcd")
        writer.write(HELLO[5:])
        for _ in range(2):
            gate.may_end.release()
            assert await answer_of(reader) == (200, b"abcd")


async def test_stream_hears_of_the_end_of_a_connection_that_has_asked_for_more(serve: Serve) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def until_nobody_waits(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            begun.set()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        hears = asyncio.create_task(asyncio.wait_for(until_nobody_waits(receive), PATIENCE_S))
        while not hears.done():
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.01)
        await hears
        ended.set()

    async with connected(await serve(stream)) as (_, writer):
        writer.write(HELLO)
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        writer.write(HELLO)
    await asyncio.wait_for(ended.wait(), PATIENCE_S)


async def test_connection_is_handed_over_once_the_last_answer_is_sent(serve: Serve) -> None:
    given: list[bytes] = []
    size = 8 << 20

    def give(sock: socket.socket, received: bytes) -> bool:
        given.append(received)
        return True

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * size)(scope, receive, send)

    port = await serve(large, give=give)
    async with connected(port) as (reader, writer):
        writer.write(HELLO)
        await reader.readuntil(b"\r\n\r\n")  # the rest fills the buffers of the connection
        writer.write(FOR_DATA_PLANE)
        assert len(await reader.readexactly(size)) == size
        assert await answer_of(reader) == (200, b"x" * size)
        assert given == []
        writer.write(FOR_DATA_PLANE)
        assert await reader.read() == b""
    assert given == [FOR_DATA_PLANE]
