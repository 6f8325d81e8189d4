"""The data plane beside a server: started with the first service, fed with routes, started again if it dies.

The two processes share the socket at which clients connect. While a data plane lives it accepts the connections, and
each process hands over those whose next request is for the other.
"""

import asyncio
import logging
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from msgspec import DecodeError, json

from dstack.engine.drains import drained
from dstack.engine.routes import Book
from dstack.errors import DatabaseUnavailable
from dstack.kit.accepting import Acceptor
from dstack.kit.clock import Clock
from dstack.kit.passing import Passing
from dstack.kit.pauses import Pauses
from dstack.kit.tasks import TaskGroup
from dstack.protocol.proxy import (
    FRAME_BYTES_MAX,
    Changes,
    Connection,
    Counted,
    Drained,
    FromDataPlane,
    Held,
    Hello,
    Leave,
    Listener,
    Released,
    ReplicaState,
    Snapshot,
    from_data_plane,
)
from dstack.server.data_plane_process import control_path, greeting, is_alive, is_left_behind, start
from dstack.server.held import HeldConnections
from dstack.server.parts import Parts

T = TypeVar("T")

log = logging.getLogger(__name__)

WORKED_S = 1.0
ACKNOWLEDGED_MAX = 10_000
WAITING_MAX = 1024
LEAVE_AFTER = timedelta(minutes=5)
"""A data plane without services ends after so long."""
FIRST_RETRY, LONGEST_RETRY = timedelta(milliseconds=50), timedelta(seconds=5)


class DataPlane:
    """The data plane of one server, as far as there is one."""

    def __init__(self, folder: Path, parts: Parts, clock: Clock) -> None:
        """Args: `folder`: where it lives; made with the first service."""
        self._folder = folder
        self._parts = parts
        self._routes = parts.routes
        self._clock = clock
        self._tasks = TaskGroup()
        self._connection: Passing | None = None
        self._acknowledged = set[str]()
        """The drained replicas on record."""
        self._is_ours = False
        """Whether this server has started the data plane: it is as new as can be."""
        self._is_replaced = False
        """Whether another data plane follows the present one at once."""
        self._comes = True
        """Whether a data plane is on its way: connections for it wait."""
        self._waiting: list[tuple[socket.socket, bytes]] = []
        """Connections for the data plane that follows."""
        self._held = HeldConnections()

    def start(self, acceptor: Acceptor) -> None:
        """Accept clients, and keep a data plane while there are services.

        One that lives accepts them already: this process could answer requests for services with an error only.
        """
        if not is_alive(self._folder):
            acceptor.start()
        self._tasks.keep("data plane", lambda: self._keep(acceptor))

    async def close(self) -> None:
        """Leave the data plane alone: it goes on without a server, unless there are no services."""
        connection, book = self._connection, self._routes.book
        if connection is not None and book.version and not book.services:
            connection.send(json.encode(Leave()))
            await connection.drain()
        await self._tasks.close()
        for sock, _ in (*self._waiting, *self._held.take()):
            sock.close()

    def give(self, sock: socket.socket, received: bytes) -> bool:
        """Hand over a connection whose next request is for a service; return False where no data plane takes it.

        It waits while a data plane starts: no request is lost behind the first service, or the death of a data plane.
        """
        if self._connection is not None:
            return self._connection.send(json.encode(Connection(received)), sock)
        return self._comes and self._wait(sock.dup(), received)

    def _wait(self, sock: socket.socket, received: bytes) -> bool:
        """Keep a connection for the next data plane; close it and return False where too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            sock.close()
            return False
        self._waiting.append((sock, received))
        return True

    async def _keep(self, acceptor: Acceptor) -> None:
        pauses = Pauses(FIRST_RETRY, LONGEST_RETRY)
        while True:
            if not is_alive(self._folder) and not await self._start(acceptor):
                await self._accept(acceptor)
                await self._clock.sleep(pauses.next())
                continue
            if await self._serve(acceptor):
                pauses.reset()
            else:
                await self._clock.sleep(pauses.next())

    async def _start(self, acceptor: Acceptor) -> bool:
        """Start a data plane once there are services; return whether it is ready."""
        book = self._routes.book
        while not book.services:
            self._comes = not book.version  # the record may have some that are not known yet
            self._waiting += self._held.take()
            await self._accept(acceptor)
            book = await self._routes.wait(book.version)
        self._comes = True
        try:
            await self._parts.leases.set_data_plane(is_there=True)
        except DatabaseUnavailable as error:
            log.warning("The data plane waits for the database: %s", error)
            self._comes = False
            return False
        self._comes = self._is_ours = await asyncio.to_thread(start, self._folder)
        return self._is_ours

    async def _accept(self, acceptor: Acceptor) -> None:
        """Let the server accept connections, since no data plane does."""
        acceptor.start()
        waiting, self._waiting = self._waiting, []
        for sock, received in waiting:
            await acceptor.take(sock, received)

    async def _give_waiting(self, connection: Passing) -> None:
        while self._waiting:
            sock, received = self._waiting.pop(0)
            connection.send(json.encode(Connection(received)), sock)
            sock.close()
            await connection.drain()

    def _connect(self) -> Passing | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(control_path(self._folder)))  # a Unix socket connects at once, or not at all
        except OSError as error:
            sock.close()
            log.warning("The data plane cannot be reached: %s", error)
            return None
        return Passing(sock, FRAME_BYTES_MAX)

    async def _serve(self, acceptor: Acceptor) -> bool:
        """Feed one data plane until it ends; return whether it has worked for a while."""
        began_s = asyncio.get_running_loop().time()
        connection = self._connect()
        if connection is None:
            acceptor.start()
            return False
        feeding: asyncio.Task[None] | None = None
        try:
            pid, is_current = await greeting(connection)
            is_current |= self._is_ours
            self._waiting += self._held.meet(pid)
            book = self._routes.book
            if is_current and book.version:  # before any client arrives
                connection.send(json.encode(snapshot_of(book)))
            connection.send(json.encode(Listener()), acceptor.listener)
            feeding = self._tasks.start("routes to the data plane", self._feed(connection, is_current, book))
            self._connection = connection
            acceptor.stop()
            await self._give_waiting(connection)
            while True:
                await self._take(acceptor, connection, *await connection.receive())
        except (EOFError, ConnectionError, TimeoutError, DecodeError) as error:
            self._note_end(error)
        finally:
            self._connection = None
            connection.close()
            if feeding is not None:
                feeding.cancel()
            if not self._is_replaced:  # else clients wait for the next one
                acceptor.start()
            self._is_replaced = False
        return asyncio.get_running_loop().time() - began_s > WORKED_S

    def _note_end(self, error: Exception) -> None:
        if not isinstance(error, EOFError):
            self._held.clear()  # the data plane lives, and sends them on although it cannot report that here
        if not self._is_replaced:
            log.warning("The data plane is lost: %s", str(error) or "it has ended")

    async def _take(self, acceptor: Acceptor, connection: Passing, frame: bytes, carried: socket.socket | None) -> None:
        match from_data_plane.decode(frame), carried:
            case Hello(routes=0), None if self._connection is connection and self._routes.book.version:
                connection.send(json.encode(snapshot_of(self._routes.book)))
            case Listener(), socket.socket() as listener:
                listener.close()  # this server has its own, or took this one at its start
            case Connection(received), socket.socket() as sock if self._is_replaced:
                self._wait(sock, received)
            case Connection(received), socket.socket() as sock:
                await acceptor.take(sock, received)
            case Held(id, received), socket.socket() as sock:
                self._held.keep(id, sock, received)
            case message, None:
                self._note(message)

    def _note(self, message: FromDataPlane) -> None:
        match message:
            case Counted() as counted:
                self._parts.traffic.take(counted)
            case Released(ids):
                self._held.release(ids)
            case Drained(job_id):
                if job_id not in self._acknowledged:  # each is reported every second
                    self._tasks.start("drained replica", self._acknowledge(job_id))
            case ReplicaState(job_id, is_up, reason):
                log.info("Replica %s is %s%s", job_id, "up" if is_up else "down", f": {reason}" if reason else "")

    async def _acknowledge(self, job_id: str) -> None:
        server_id = self._parts.leases.replica_id
        if len(self._acknowledged) >= ACKNOWLEDGED_MAX:
            self._acknowledged.clear()
        self._acknowledged.add(job_id)
        if await asyncio.to_thread(is_left_behind, self._folder, job_id):  # asked again each second
            self._acknowledged.discard(job_id)
            return
        try:
            await self._parts.db.write(lambda tx: drained(tx, job_id, server_id))
        except DatabaseUnavailable as error:  # the data plane reports it again
            self._acknowledged.discard(job_id)
            log.warning("The end of the requests of replica %s could not be recorded: %s", job_id, error)

    async def _feed(self, connection: Passing, is_current: bool, book: Book) -> None:
        """Send changes.

        Args:
            book: the routes that the data plane has, unless its version is 0.
        """
        if not book.version:
            book = await self._routes.wait(0)
            if is_current:
                connection.send(json.encode(snapshot_of(book)))
        if not is_current:
            log.info("The data plane is of another version: a new one follows")
            self._is_replaced = connection.send(json.encode(Leave()))
            return
        while True:
            try:
                async with asyncio.timeout(None if book.services else LEAVE_AFTER.total_seconds()):
                    following = await self._routes.wait(book.version)
            except TimeoutError:
                connection.send(json.encode(Leave()))
                await self._parts.leases.set_data_plane(is_there=False)
                return
            connection.send(json.encode(changes_between(book, following)))
            self._acknowledged &= {replica.job_id for one in following.services.values() for replica in one.draining}
            book = following


def snapshot_of(book: Book) -> Snapshot:
    """Return all routes as a message."""
    return Snapshot(book.version, tuple(book.services.values()), dict(book.tokens))


def changes_between(old: Book, new: Book) -> Changes:
    """Return the difference between two versions as a message."""
    tokens = {**_different(old.tokens, new.tokens)} | {hash: () for hash in old.tokens.keys() - new.tokens.keys()}
    return Changes(
        version=new.version,
        since=old.version,
        services=tuple(_different(old.services, new.services).values()),
        removed=tuple(old.services.keys() - new.services.keys()),
        tokens=tokens,
    )


def _different(old: Mapping[str, T], new: Mapping[str, T]) -> Mapping[str, T]:
    if old is new:
        return {}
    return {key: value for key, value in new.items() if old.get(key) != value}
