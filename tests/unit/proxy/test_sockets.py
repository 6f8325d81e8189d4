"""The data plane over real sockets, on each event loop: with curl, httpx and websockets as its clients."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import httpx
import pytest
from msgspec.structs import replace
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from dstack.protocol.proxy import Replica, Service, Snapshot, Tcp
from dstack.proxy.clients import ClientConnection
from dstack.proxy.plane import DataPlane
from tests.patience import PATIENCE_S

BIG = 3_000_000
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
except ImportError:  # Windows
    pass


@dataclass
class Site:
    """A data plane and the address of a service behind it."""

    plane: DataPlane
    port: int
    cut: list[str]
    """Paths whose answers were cut by their clients."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/proxy/services/main/web"

    async def runs(self, *command: str) -> bytes:
        """Return the output of a program."""
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: list[str]) -> None:
    """Serve one connection of a replica, with h11."""
    connection = h11.Connection(h11.SERVER)
    while (request := await _next(connection, reader, writer)) is not None:
        path, size = request
        try:
            for part in _parts(path, size):
                writer.write(connection.send(part) or b"")
                await writer.drain()
                if path == "/endless":
                    await asyncio.sleep(0.001)
        except (ConnectionError, RuntimeError):  # uvloop raises `RuntimeError` where the transport has closed already
            cut.append(path)
            return
        connection.start_next_cycle()


async def _next(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[str, int] | None:
    """Return the path of the next request and the size of its body; None at the end of the connection."""
    path, size = "", 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            path = event.target.decode()
        elif isinstance(event, h11.Data):
            size += len(event.data)
        else:
            return (path, size) if isinstance(event, h11.EndOfMessage) else None


def _parts(path: str, size: int):  # type: ignore[no-untyped-def]  # of h11's events
    body = b"x" * BIG if path == "/big" else f"{path} {size}".encode()
    framing = (
        ("Transfer-Encoding", "chunked") if path in ("/chunks", "/endless") else ("Content-Length", str(len(body)))
    )
    yield h11.Response(status_code=200, headers=[framing])
    while path == "/endless":
        yield h11.Data(data=b"data: x\n\n")
    yield h11.Data(data=body)
    yield h11.EndOfMessage()


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """Have a data plane with a service `web`, and `sockets` whose replica echoes WebSockets."""
    plane = DataPlane()
    cut: list[str] = []
    serving: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            await _answer(reader, writer, cut)
        finally:
            serving.discard(asyncio.current_task())
            writer.close()

    loop = asyncio.get_running_loop()
    web = await asyncio.start_server(answer, "127.0.0.1", 0)
    front = await loop.create_server(lambda: ClientConnection(plane), "127.0.0.1", 0)
    async with serve(_echo, "127.0.0.1", 0, max_size=None, compression=None) as sockets:
        services = tuple(
            Service(
                id=name,
                project="main",
                name=name,
                auth=False,
                replicas=(Replica(name, 0, Tcp("127.0.0.1", port)),),
            )
            for name, port in (
                ("web", web.sockets[0].getsockname()[1]),
                ("sockets", next(iter(sockets.sockets)).getsockname()[1]),
            )
        )
        plane.routes.replace(Snapshot(1, services, {}))
        yield Site(plane, front.sockets[0].getsockname()[1], cut)
    front.close()
    web.close()
    await plane.end(0)
    plane.routes.replace(Snapshot(2, (), {}))
    await until(lambda: not plane._clients and not serving)
    await plane.tasks.close()


@pytest.fixture(params=LOOPS, name="run")
def fixture_run(request: pytest.FixtureRequest) -> Callable[[Callable[[Site], Awaitable[None]]], None]:
    """Return a function that runs a test with a site, on one of the event loops."""

    def run(test: Callable[[Site], Awaitable[None]]) -> None:
        async def inside() -> None:
            async with site() as one:
                await asyncio.wait_for(test(one), PATIENCE_S)
                await until(lambda: not any(route.sums.in_flight for route in one.plane.routes))

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(inside())

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    while not condition():  # noqa: ASYNC110 - it depends on sockets
        await asyncio.sleep(0.01)


Run = Callable[[Callable[[Site], Awaitable[None]]], None]


def test_httpx_keeps_its_connection_through_all_kinds_of_bodies(run: Run) -> None:
    async def test(one: Site) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"y" * 100_000

        async with httpx.AsyncClient() as client:
            assert (await client.get(one.url + "/a?b=c")).text == "/a?b=c 0"
            assert (await client.get(one.url + "/chunks")).text == "/chunks 0"
            assert (await client.head(one.url + "/a")).headers["content-length"] == "4"
            assert (await client.post(one.url + "/a", content=b"z" * BIG)).text == f"/a {BIG}"
            assert (await client.put(one.url + "/a", content=parts())).text == "/a 3000000"
            assert len((await client.get(one.url + "/big")).content) == BIG
        assert len(one.plane._clients) <= 1

    run(test)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_uploads_with_an_expectation(run: Run) -> None:
    async def test(one: Site) -> None:
        url = one.url + "/upload"
        options = ("-sS", "--fail", "-H", "Expect: 100-continue", "--data-binary", "x" * 100_000)
        assert await one.runs("curl", *options, url, url) == b"/upload 100000/upload 100000"
        assert await one.runs("curl", "-sS", "--http1.0", url) == b"/upload 0"

    run(test)


def test_websockets_carry_small_and_big_messages(run: Run) -> None:
    async def test(one: Site) -> None:
        url = one.url.replace("http", "ws", 1).replace("/web", "/sockets")
        async with connect(url, max_size=None, compression=None) as first, connect(url, max_size=None) as second:
            for message in ("hello", b"x" * BIG, ""):
                await first.send(message)
                await second.send(message)
                assert await first.recv() == message
                assert await second.recv() == message
        assert first.close_code == second.close_code == 1000

    run(test)


def test_client_that_leaves_a_stream_ends_it_at_the_replica(run: Run) -> None:
    async def test(one: Site) -> None:
        async with httpx.AsyncClient() as client, client.stream("GET", one.url + "/endless") as answer:
            async for part in answer.aiter_raw():
                assert part.startswith(b"data: x\n\n")
                break
        await until(lambda: one.cut == ["/endless"])

    run(test)


def test_many_streams_keep_their_order_and_end(run: Run) -> None:
    async def test(one: Site) -> None:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=20)) as client:
            answers = await asyncio.gather(*(client.get(f"{one.url}/{number}") for number in range(100)))
        assert [answer.text for answer in answers] == [f"/{number} 0" for number in range(100)]

    run(test)


def test_clients_wait_for_a_replica_and_those_that_leave_are_forgotten(run: Run) -> None:
    async def test(one: Site) -> None:
        routes = {route.service.name: route for route in one.plane.routes}
        ready = tuple(route.service for route in routes.values())
        starting = tuple(replace(service, replicas=(), starts=True) for service in ready)

        async def upload() -> str:
            async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
                return (await client.post(one.url + "/a", content=b"z" * BIG)).text

        async def talk() -> str | bytes:
            async with connect(one.url.replace("http", "ws", 1).replace("/web", "/sockets")) as client:
                await client.send("hello")
                return await client.recv()

        one.plane.routes.replace(Snapshot(2, starting, {}))
        asked = asyncio.gather(*(upload() for _ in range(5)), talk())
        await until(lambda: (routes["web"].sums.held, routes["sockets"].sums.held) == (5, 1))
        _, writer = await asyncio.open_connection("127.0.0.1", one.port)
        writer.write(b"GET /proxy/services/main/web/b HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: routes["web"].sums.held == 6)
        writer.transport.abort()
        await until(lambda: routes["web"].sums.held == 5)
        one.plane.routes.replace(Snapshot(3, ready, {}))
        assert await asked == [f"/a {BIG}"] * 5 + ["hello"]
        assert one.plane.holding.size == 0

    run(test)
