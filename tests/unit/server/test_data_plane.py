"""The data plane of a server, a real process, while the parts of the server fail or change."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import json

from dstack import __version__
from dstack.engine.leases import Leases
from dstack.engine.routes import Book
from dstack.kit.accepting import Acceptor
from dstack.kit.clock import SystemClock
from dstack.kit.folders import make_private
from dstack.kit.locks import is_locked, take
from dstack.kit.passing import FRAME_HEAD
from dstack.protocol.proxy import LOCK, Counted, Hello, Listener, Replica, Service, Tcp
from dstack.server.data_plane import DataPlane, snapshot_of
from dstack.server.data_plane_process import control_path, is_left_behind, start
from tests.e2e.home import wait_for
from tests.patience import PATIENCE_S
from tests.unit.server.planes import end, pid_in, send, server_of

HELLO = b"GET /proxy/services/main/web/ HTTP/1.1\r\nhost: here\r\n\r\n"
STREAMS, EVENTS = 200, 100


class Database:
    """A database that answers, or not."""

    answers = True

    async def write(self, work: Any) -> None:
        if not self.answers:
            await asyncio.Event().wait()


class Routes:
    """The routes of one service."""

    def __init__(self, replica_port: int) -> None:
        self.replica = Replica("0-job", 0, Tcp("127.0.0.1", replica_port))
        self._changed = asyncio.Condition()
        self.book = self._with(1, is_ready=True)

    def _with(self, version: int, *, is_ready: bool) -> Book:
        replicas = (self.replica,) if is_ready else ()
        service = Service("0-run", "main", "web", auth=False, replicas=replicas, starts=not is_ready)
        return Book(version, {service.id: service}, {})

    async def become(self, *, is_ready: bool) -> None:
        """Have a replica that is ready, or one that is on its way."""
        self.book = self._with(self.book.version + 1, is_ready=is_ready)
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, version: int) -> Book:
        async with self._changed:
            await self._changed.wait_for(lambda: version != self.book.version)
        return self.book


class Traffic:
    """The counters that data planes have reported."""

    def __init__(self) -> None:
        self._counted = asyncio.Condition()
        self._held: set[str] = set()
        """The epochs of those that had a request which waits."""

    def take(self, counted: Counted) -> None:
        if counted.services["0-run"].held:
            self._held.add(counted.epoch)
        self._last = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        async with self._counted:
            self._counted.notify_all()

    async def until_held(self, planes: int) -> None:
        """Wait until a request has waited in so many data planes."""
        async with self._counted, asyncio.timeout(PATIENCE_S):
            await self._counted.wait_for(lambda: len(self._held) >= planes)


class World:
    """A server with a service of one replica, whose answer to each request begins, and ends with `gate`."""

    def __init__(self, folder: Path, replica_port: int) -> None:
        self.folder = folder
        self.database: Any = Database()
        clock = SystemClock()
        leases = Leases(self.database, clock, "0-server", "here", alone=True)
        self.routes = Routes(replica_port)
        self.traffic = Traffic()
        parts: Any = SimpleNamespace(leases=leases, routes=self.routes, traffic=self.traffic)
        self.acceptor = Acceptor(socket.create_server(("127.0.0.1", 0)), asyncio.Protocol)
        self.data_plane = DataPlane(folder, parts, clock)
        self.writers: list[asyncio.StreamWriter] = []
        self.seen = 0
        """Requests that have reached the replica."""

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect."""
        reader, writer = await asyncio.open_connection(*self.acceptor.listener.getsockname())
        self.writers.append(writer)
        return reader, writer

    async def ask(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    ) -> asyncio.StreamReader:
        """Send a request, and return its answer once that has begun."""
        reader, writer = connection or await self.client()
        writer.write(HELLO)
        return await begun(reader)

    async def pid_after(self, former: int = 0) -> int:
        """Return the process of the next data plane, once it accepts the clients alone."""

        def is_there() -> bool:
            is_alone = is_locked(self.folder / LOCK) and not self.acceptor.is_on
            return is_alone and pid_in(self.folder) not in (0, former)

        await asyncio.to_thread(wait_for, "the next data plane", is_there)
        return pid_in(self.folder)


async def begun(reader: asyncio.StreamReader) -> asyncio.StreamReader:
    """Return an answer once it has begun."""
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await reader.readexactly(3) == b"one"
    return reader


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever the other side has done with it."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.fixture
async def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def world(tmp_path: Path, gate: asyncio.Event) -> AsyncIterator[World]:
    answering: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                world.seen += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
                await gate.wait()
                writer.write(b"two")
        await closed(writer)

    replica = await asyncio.start_server(answer, "127.0.0.1", 0)
    world = World(tmp_path / "proxy", replica.sockets[0].getsockname()[1])
    yield world
    gate.set()
    for writer in world.writers:
        await closed(writer)
    await world.data_plane.close()
    world.acceptor.close()
    await asyncio.to_thread(end, world.folder)
    await asyncio.gather(*filter(None, answering))
    replica.close()


async def test_data_plane_gets_its_routes_before_clients(world: World) -> None:
    frames: list[bytes] = []
    are_there = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.encode(Hello(1, __version__, 0))
        writer.write(FRAME_HEAD.pack(len(hello), False) + hello)
        while len(frames) < 2:
            size, _ = FRAME_HEAD.unpack(await reader.readexactly(FRAME_HEAD.size))
            frames.append(await reader.readexactly(size))
        are_there.set()
        await closed(writer)

    make_private(world.folder)
    lock = take(world.folder / LOCK)
    assert lock is not None
    played = await asyncio.start_unix_server(greet, control_path(world.folder))
    world.data_plane.start(world.acceptor)
    async with asyncio.timeout(PATIENCE_S):
        await are_there.wait()
    await world.data_plane.close()
    played.close()
    os.close(lock)
    assert [json.decode(frame)["type"] for frame in frames] == ["snapshot", "listener"]


async def test_dead_data_plane_is_started_again_while_the_database_does_not_answer(world: World) -> None:
    world.data_plane.start(world.acceptor)
    former = await world.pid_after()
    await world.ask()
    world.database.answers = False
    os.kill(former, signal.SIGKILL)
    assert await world.pid_after(former) != former


async def test_request_waits_while_the_data_plane_starts(world: World) -> None:
    mine, theirs = socket.socketpair()
    with theirs:
        assert world.data_plane.give(theirs, HELLO)
    world.data_plane.start(world.acceptor)
    reader, writer = await asyncio.open_connection(sock=mine)
    world.writers.append(writer)
    async with asyncio.timeout(PATIENCE_S):
        await begun(reader)


async def test_request_is_not_kept_where_no_data_plane_can_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = asyncio.Event()

    def pause(pauses_of: object) -> timedelta:
        pauses.set()
        return timedelta(hours=1)

    monkeypatch.setattr("dstack.server.data_plane.start", lambda folder: False)
    monkeypatch.setattr("dstack.server.data_plane.Pauses.next", pause)
    world.data_plane.start(world.acceptor)
    await pauses.wait()
    mine, theirs = socket.socketpair()
    with mine, theirs:
        assert not world.data_plane.give(theirs, HELLO), "the server answers it"


async def test_data_plane_of_another_version_is_replaced_and_finishes_its_streams(
    world: World, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await asyncio.to_thread(start, world.folder)
    with server_of(world.folder) as control:  # the server before the upgrade
        send(control, Listener(), world.acceptor.listener)
        send(control, snapshot_of(world.routes.book))
        idle, half = await world.client(), await world.client()
        half[1].write(HELLO[:20])
        stream = await world.ask()
    former = pid_in(world.folder)
    monkeypatch.setattr("dstack.server.data_plane_process.__version__", "another")
    world.data_plane.start(world.acceptor)
    asked = [asyncio.create_task(world.ask())]
    following = await world.pid_after(former)
    asked += [asyncio.create_task(world.ask()) for _ in range(20)]
    half[1].write(HELLO[20:])
    asked += [asyncio.create_task(world.ask(idle)), asyncio.create_task(begun(half[0]))]
    await asyncio.gather(*asked)
    assert is_left_behind(world.folder, "0-job"), "the server may not end its replica yet"
    assert not is_left_behind(world.folder, "another job")
    gate.set()
    assert await stream.readexactly(3) == b"two"
    await asyncio.to_thread(wait_for, "the end of the former", lambda: not is_left_behind(world.folder, "0-job"))
    assert pid_in(world.folder) == following, "this server has started it"


async def test_events_of_two_hundred_streams_arrive_whole_and_in_order(world: World) -> None:
    open_streams: list[asyncio.StreamWriter] = []
    all_are_open = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        open_streams.append(writer)
        if len(open_streams) == STREAMS:
            all_are_open.set()

    async def follow() -> bytes:
        reader, writer = await world.client()
        writer.write(HELLO.replace(b"1.1", b"1.0"))  # the answer ends with the connection, without chunks
        await reader.readuntil(b"\r\n\r\n")
        return await reader.read(-1)

    replica = await asyncio.start_server(stream, "127.0.0.1", 0)
    world.routes = Routes(replica.sockets[0].getsockname()[1])
    assert await asyncio.to_thread(start, world.folder)
    with server_of(world.folder) as control:
        send(control, snapshot_of(world.routes.book))
        send(control, Listener(), world.acceptor.listener)
        following = [asyncio.create_task(follow()) for _ in range(STREAMS)]
        async with asyncio.timeout(PATIENCE_S):
            await all_are_open.wait()
        for number in range(EVENTS):
            for writer in open_streams:
                event = f"data: token {number}\n\n"
                writer.write(f"{len(event):x}\r\n{event}\r\n".encode())
            await asyncio.gather(*(writer.drain() for writer in open_streams))
        for writer in open_streams:
            writer.write(b"0\r\n\r\n")
            writer.close()
        expected = "".join(f"data: token {number}\n\n" for number in range(EVENTS)).encode()
        assert await asyncio.gather(*following) == [expected] * STREAMS
    replica.close()


async def test_request_that_waits_survives_its_data_plane_and_runs_once(world: World, gate: asyncio.Event) -> None:
    await world.routes.become(is_ready=False)
    world.data_plane.start(world.acceptor)
    former = await world.pid_after()
    reader, writer = await world.client()
    writer.write(HELLO)
    await world.traffic.until_held(planes=1)
    os.kill(former, signal.SIGKILL)
    following = await world.pid_after(former)
    await world.traffic.until_held(planes=2)
    await world.routes.become(is_ready=True)
    await begun(reader)
    os.kill(following, signal.SIGKILL)
    gate.set()
    with suppress(ConnectionResetError):
        assert await reader.read() in (b"", b"two"), "no server keeps a request that runs"
    await world.pid_after(following)
    await world.ask()
    assert world.seen == 2


async def test_request_that_waits_survives_an_upgrade(
    world: World, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.routes.become(is_ready=False)
    assert await asyncio.to_thread(start, world.folder)
    readers = []
    with server_of(world.folder) as control:  # the server before the upgrade
        send(control, snapshot_of(world.routes.book))
        send(control, Listener(), world.acceptor.listener)
        for _ in range(3):
            reader, writer = await world.client()
            writer.write(HELLO)
            readers.append(reader)
        await asyncio.to_thread(until_kept, control, 3)
    monkeypatch.setattr("dstack.server.data_plane_process.__version__", "another")
    former = pid_in(world.folder)
    world.data_plane.start(world.acceptor)
    await world.pid_after(former)
    await world.traffic.until_held(planes=1)
    await world.routes.become(is_ready=True)
    gate.set()
    for reader in readers:
        await begun(reader)
    assert world.seen == 3


async def test_request_that_waits_survives_a_data_plane_that_is_asked_to_end(world: World, gate: asyncio.Event) -> None:
    await world.routes.become(is_ready=False)
    world.data_plane.start(world.acceptor)
    former = await world.pid_after()
    reader, writer = await world.client()
    writer.write(HELLO)
    await world.traffic.until_held(planes=1)
    os.kill(former, signal.SIGTERM)
    await world.pid_after(former)
    await world.traffic.until_held(planes=2)
    await world.routes.become(is_ready=True)
    await begun(reader)
    assert world.seen == 1


def until_kept(control: socket.socket, count: int) -> None:
    """Wait until a data plane has reported so many requests that wait."""
    while count:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 16)
        assert data
        count -= len(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
