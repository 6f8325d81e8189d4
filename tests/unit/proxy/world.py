"""A data plane whose clients and replicas are byte strings, and whose clock stands still."""

import asyncio
from collections import deque
from hashlib import sha256
from typing import cast

from dstack.protocol.proxy import Limit, Model, Replica, Service, Snapshot, Target, Tcp
from dstack.proxy.clients import ClientConnection
from dstack.proxy.plane import DataPlane
from dstack.proxy.replicas import ReplicaConnection

TOKEN = "ada's token"
HIGH_WATER = 64 << 10

GET = b"GET /proxy/services/main/web/x HTTP/1.1\r\nHost: example.com\r\n\r\n"
FORWARDED = (
    b"x-forwarded-for: 10.0.0.7\r\nx-forwarded-host: example.com\r\nx-forwarded-proto: http\r\n"
    b"x-forwarded-prefix: /proxy/services/main/web\r\n"
)
GOT = b"GET /x HTTP/1.1\r\nHost: example.com\r\n" + FORWARDED + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OKAY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
"""`OK` as it goes on."""


class Transport:
    """One end of a connection: keeps what is written, and says no more than asyncio's transports do."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        self.written = b""
        self.writes = 0
        self.is_reading = True
        self.is_stalled = False
        """Whether the other side reads nothing, so that written bytes stay in the buffer."""
        self.buffered = 0
        self.high_water = HIGH_WATER
        self.has_ended = self.is_closed = self.is_lost = False
        protocol.connection_made(cast(asyncio.Transport, self))

    # What protocols call

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert data, "an empty write costs a system call"
        assert not self.has_ended, "written behind the end"
        if self.is_closed:
            return
        self.writes += 1
        self.written += data
        if self.is_stalled:
            self.buffered += len(data)
            self._check_buffer()

    def _check_buffer(self) -> None:
        if self.buffered > self.high_water:
            self.protocol.pause_writing()

    def set_write_buffer_limits(self, high: int) -> None:
        self.high_water = high
        self._check_buffer()

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def get_extra_info(self, name: str) -> object:
        return ("10.0.0.7", 4711) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self._lose, None)

    # What the other side does

    def sends(self, data: bytes) -> None:
        """Let these bytes arrive, in one piece."""
        assert self.is_reading, "the bytes stay in the socket"
        assert not self.is_closed
        self.protocol.data_received(data)

    def ends(self) -> None:
        """Let the other side send no more."""
        if not self.protocol.eof_received():
            self.close()

    def breaks(self, error: Exception | None = None) -> None:
        """Let the connection be lost at once."""
        self.is_closed = True
        self._lose(error)

    def reads_on(self) -> None:
        """Let the other side read all that is in the buffer."""
        self.is_stalled, self.buffered = False, 0
        self.protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(error)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        written, self.written = self.written, b""
        return written


class World(DataPlane):
    """A data plane with fake connections."""

    def __init__(self) -> None:
        super().__init__()
        self.clock_s = 1000.0
        self.now_s = lambda: self.clock_s
        self.connections: deque[Transport] = deque()
        """Those to replicas that no test has looked at."""
        self.dialled: list[Target] = []
        self.unreachable: set[int] = set()
        """Ports that refuse connections."""
        self.given: list[bytes] = []
        self.states: list[tuple[str, bool]] = []
        self.drained: list[str] = []
        self.give_to_server = self._give
        self.on_state = lambda job_id, is_up, reason: self.states.append((job_id, is_up))
        self.on_drained = self.drained.append
        self.serve(service())

    def _give(self, sock: object, received: bytes) -> bool:
        self.given.append(received)
        return True

    def serve(self, *services: Service) -> None:
        """Have these services."""
        tokens = {sha256(TOKEN.encode()).hexdigest(): ("main",)}
        self.routes.replace(Snapshot(self.routes.version + 1, services, tokens))

    async def connect(self, target: Target) -> ReplicaConnection:
        self.dialled.append(target)
        await asyncio.sleep(0)
        if isinstance(target, Tcp) and target.port in self.unreachable:
            raise ConnectionRefusedError("refused")
        connection = ReplicaConnection(self.heads)
        self.connections.append(Transport(connection))
        return connection

    def client(self) -> Transport:
        """Return a new connection of a client."""
        return Transport(ClientConnection(self))

    async def replica(self) -> Transport:
        """Return the next connection to a replica."""
        for _ in range(10):
            if self.connections:
                return self.connections.popleft()
            await asyncio.sleep(0)
        raise AssertionError("no connection to a replica")

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.clock_s += seconds
        self.check()


async def settle() -> None:
    """Let all tasks come to where they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def replica(number: int) -> Replica:
    """Return a replica."""
    return Replica(job_id=f"job-{number}", number=number, target=Tcp("127.0.0.1", 7000 + number))


def service(
    name: str = "web",
    *,
    auth: bool = False,
    replicas: int = 1,
    strip_prefix: bool = True,
    limits: tuple[Limit, ...] = (),
    model: Model | None = None,
    starts: bool = False,
    waits_for: str = "",
) -> Service:
    """Return a service of the project `main`."""
    ready = tuple(replica(number) for number in range(replicas))
    return Service(
        id=name,
        project="main",
        name=name,
        auth=auth,
        strip_prefix=strip_prefix,
        limits=limits,
        model=model,
        replicas=ready,
        starts=starts,
        waits_for=waits_for,
    )


def status_of(answer: bytes) -> int:
    """Return the status of an answer; 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer else 0
