"""A data plane and the servers at its control socket, over real sockets in one process."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import json

from dstack import __version__
from dstack.kit.passing import Passing
from dstack.protocol.proxy import (
    FRAME_BYTES_MAX,
    Changes,
    Connection,
    Counted,
    Drained,
    FromDataPlane,
    FromServer,
    Held,
    Hello,
    Leave,
    Listener,
    Released,
    Replica,
    Service,
    Snapshot,
    Tcp,
    from_data_plane,
)
from dstack.proxy.control import Control
from dstack.proxy.plane import DataPlane
from tests.patience import PATIENCE_S

HELLO = b"GET /proxy/services/main/web/ HTTP/1.1\r\nhost: here\r\n\r\n"
REST = b"GET /api/runs HTTP/1.1\r\nhost: here\r\n\r\n"


class Server:
    """A server as the data plane sees it."""

    def __init__(self, path: Path) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(path))
        self.passing = Passing(sock, FRAME_BYTES_MAX)
        self.carried: socket.socket | None = None
        """The socket of the message that came last."""

    def send(self, message: FromServer, carried: socket.socket | None = None) -> None:
        assert self.passing.send(json.encode(message), carried)

    async def next(self, kind: type[FromDataPlane]) -> FromDataPlane:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                frame, self.carried = await self.passing.receive()
                message = from_data_plane.decode(frame)
                if isinstance(message, kind):
                    return message
                if self.carried is not None:
                    self.carried.close()


class World:
    """A data plane with one replica behind it."""

    def __init__(self, folder: Path, replica_port: int) -> None:
        self.path = folder / "control.sock"
        self.left = asyncio.Event()
        self.plane = DataPlane()
        self.control = Control(self.plane, self.path, self.left.set)
        for work in (self.control.serve, self.control.count, self.plane.watch):
            self.plane.tasks.keep(work.__qualname__, work)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = Tcp("127.0.0.1", replica_port)

    def starting(self) -> Service:
        return Service("0-run", "main", "web", auth=False, starts=True)

    def service(self, *, draining: bool = False) -> Service:
        replica = (Replica("0-job", 0, self.target),)
        ready, leaving = ((), replica) if draining else (replica, ())
        return Service("0-run", "main", "web", auth=False, replicas=ready, draining=leaving)

    async def server(self, version: int = 1) -> Server:
        """Connect a server that shares its listener and has one service."""
        server = Server(self.path)
        await server.next(Hello)
        server.send(Listener(), self.listener)
        server.send(Snapshot(version, (self.service(),), {}))
        await self.until_served()
        return server

    async def until_served(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.ask(HELLO)).startswith(b"HTTP/1.1 4"):
                pass

    async def until_away(self, server: Server) -> None:
        """Close a server's connection, and wait until the data plane has noticed."""
        server.passing.close()
        async with asyncio.timeout(PATIENCE_S):
            async for _ in turns():
                if self.plane.is_server_away:
                    return

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await self.client()
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        await closed(writer)
        return answer

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.listener.getsockname())


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever the other side has done with it."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def turns() -> AsyncIterator[None]:
    """Yield after each turn of the loop."""
    while True:
        await asyncio.sleep(0)
        yield


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    await closed(writer)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    answering = set[asyncio.Task[None] | None]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        await answer_all(reader, writer)

    replica = await asyncio.start_server(answer, "127.0.0.1", 0)
    world = World(tmp_path, replica.sockets[0].getsockname()[1])
    yield world
    await world.control.close()
    world.plane.routes.replace(Snapshot(0, (), {}))  # closes the connections to the replica
    await world.plane.end(0)
    await asyncio.gather(*filter(None, answering))
    await world.plane.tasks.close()
    world.listener.close()
    replica.close()


async def test_request_for_the_server_is_handed_over_with_its_bytes_and_back(world: World) -> None:
    server = await world.server()
    reader, writer = await world.client()
    for _ in range(2):  # one connection, three hand-overs
        writer.write(HELLO)
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200")
        writer.write(REST)
        handed = await server.next(Connection)
        assert handed == Connection(REST)
        assert server.carried is not None
        with server.carried as sock:
            sock.sendall(b"from the server\n")
            assert await reader.readline() == b"from the server\n"
            server.send(Connection(HELLO), sock)
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200")
    await closed(writer)


async def test_services_answer_and_the_server_s_requests_wait_while_it_is_away(world: World) -> None:
    await world.until_away(await world.server())
    reader, writer = await world.client()
    writer.write(REST)
    assert b" 200 " in await world.ask(HELLO)
    second = await world.server()
    assert await second.next(Connection) == Connection(REST)
    assert second.carried is not None
    second.carried.close()
    assert await reader.read() == b""
    await closed(writer)


async def test_server_that_stays_away_is_reported_to_its_clients(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.proxy.plane.KEPT_FOR_S", 0.0)
    await world.until_away(await world.server())
    answer = await world.ask(REST)
    assert b" 503 " in answer
    assert b"retry-after" in answer


async def test_changes_to_another_version_are_refused_until_a_snapshot(world: World) -> None:
    server = await world.server(version=5)
    server.send(Changes(version=9, since=8, removed=("0-run",)))
    assert await server.next(Hello) == Hello(os.getpid(), __version__, routes=0)
    assert b" 200 " in await world.ask(HELLO)
    server.send(Changes(version=6, since=5, removed=("0-run",)))
    async with asyncio.timeout(PATIENCE_S):
        while b" 401 " not in await world.ask(HELLO):
            pass


async def test_drained_replica_is_reported_once_its_last_answer_has_ended(world: World) -> None:
    server = await world.server()
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        held.append(writer)

    slow = await asyncio.start_server(hold, "127.0.0.1", 0)
    world.target = Tcp("127.0.0.1", slow.sockets[0].getsockname()[1])
    server.send(Changes(version=2, since=1, services=(world.service(),)))
    answer = asyncio.create_task(world.ask(HELLO))
    async with asyncio.timeout(PATIENCE_S):
        async for _ in turns():
            if held:
                break
    server.send(Changes(version=3, since=2, services=(world.service(draining=True),)))
    await server.next(Counted)  # a second has passed
    assert not answer.done()
    held[0].write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert await server.next(Drained) == Drained("0-job")
    assert b" 200 " in await answer
    await closed(held[0])
    slow.close()


async def test_sums_are_exact_and_go_on_for_the_next_server(world: World) -> None:
    first = await world.server()
    counted = await first.next(Counted)
    assert isinstance(counted, Counted)
    asked = counted.services["0-run"].requests
    await world.until_away(first)
    for _ in range(7):
        await world.ask(HELLO)
    second = await world.server()
    late: list[bool] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            again = await second.next(Counted)
            assert isinstance(again, Counted)
            assert again.epoch == counted.epoch
            late.append(again.is_late)
            if (sums := again.services["0-run"]).requests > asked + 7:
                break
    assert (sums.in_flight, sums.errors, sum(sums.latencies)) == (0, 0, sums.requests)
    assert late[0], "some came while no server was there"
    await world.ask(HELLO)
    async with asyncio.timeout(PATIENCE_S):
        following = await second.next(Counted)
    assert isinstance(following, Counted) and not following.is_late


async def test_the_server_that_came_last_is_in_charge(world: World) -> None:
    first = await world.server()
    second = await world.server(version=2)
    with pytest.raises(EOFError):
        while True:
            await first.passing.receive()
    reader, writer = await world.client()
    writer.write(REST)
    assert await second.next(Connection) == Connection(REST)
    assert second.carried is not None
    second.carried.close()
    assert await reader.read() == b""
    await closed(writer)


async def test_request_that_waits_is_kept_reported_and_released_before_it_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await world.server()
    monkeypatch.setattr("dstack.proxy.control.COUNT_EVERY_S", 3600.0)
    await server.next(Counted)
    server.send(Changes(version=2, since=1, services=(world.starting(),)))
    asking = asyncio.create_task(world.ask(HELLO))
    held = await server.next(Held)
    assert isinstance(held, Held) and held.received == HELLO
    assert server.carried is not None
    with server.carried:
        counted = await server.next(Counted)
        assert isinstance(counted, Counted)
        assert (counted.services["0-run"].held, counted.services["0-run"].in_flight) == (1, 1)
        await world.until_away(server)
        second = Server(world.path)
        await second.next(Hello)
        await second.next(Listener)
        assert second.carried is not None
        second.carried.close()
        assert world.plane.holding.guard is None, "what comes next could be taken for a listening socket"
        second.send(Snapshot(3, (world.starting(),), {}))
        again = await second.next(Held)
        assert isinstance(again, Held) and again.received == HELLO, "the next server keeps it too"
        assert second.carried is not None
        second.carried.close()
        second.send(Changes(version=4, since=3, services=(world.service(),)))
        assert await second.next(Released) == Released((again.id,))
        assert b" 200 " in await asking
    second.passing.close()


async def test_servers_keep_few_connections(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.proxy.control.HELD_MAX", 1)
    server = await world.server()
    server.send(Changes(version=2, since=1, services=(world.starting(),)))
    asking = [asyncio.create_task(world.ask(HELLO)) for _ in range(3)]
    held = await server.next(Held)
    assert isinstance(held, Held) and server.carried is not None
    server.carried.close()
    async for _ in turns():
        if len(world.plane.holding) == 3:
            break
    server.send(Changes(version=3, since=2, services=(world.service(),)))
    assert await server.next(Released) == Released((held.id,))
    assert [b" 200 " in answer for answer in await asyncio.gather(*asking)] == [True] * 3


async def test_closed_control_socket_is_not_mistaken_for_a_later_one(world: World) -> None:
    async for _ in turns():
        break  # it waits for servers
    descriptor = world.control._servers.fileno()
    one, other = socket.socketpair()
    await world.control.close()
    with one, other:
        os.dup2(one.fileno(), descriptor)
        is_writable, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_writer(descriptor, is_writable.set)
        await is_writable.wait()
        loop.remove_writer(descriptor)
        os.close(descriptor)


async def test_data_plane_leaves_when_it_is_asked_to(world: World) -> None:
    server = await world.server()
    server.send(Leave())
    async with asyncio.timeout(PATIENCE_S):
        assert await world.left.wait()
