"""The control socket: routes and connections come from the server, counters and facts go to it."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import DecodeError, json

from dstack import __version__
from dstack.kit.accepting import Acceptor
from dstack.kit.passing import Passing
from dstack.protocol.proxy import (
    FRAME_BYTES_MAX,
    HELD_MAX,
    Changes,
    Connection,
    Counted,
    Drained,
    FromDataPlane,
    Held,
    Hello,
    Leave,
    Listener,
    Release,
    Released,
    ReplicaState,
    Snapshot,
    from_server,
)
from dstack.proxy.clients import ClientConnection
from dstack.proxy.plane import DataPlane
from dstack.proxy.routes import Route

log = logging.getLogger(__name__)

COUNT_EVERY_S = 1.0
CLOSE_TIMEOUT_S = 5.0
ROUTES_HOLD_S = 3600.0
"""Without a server, the last routes hold for so long."""


class Control:
    """The control socket of a data plane. The server that has connected last is the one in charge."""

    def __init__(self, plane: DataPlane, path: Path, leave: Callable[[], None]) -> None:
        """Listen for servers.

        Args:
            leave: ends the data plane.
        """
        self._plane = plane
        self._leave = leave
        self._epoch = os.urandom(8).hex()
        self._server: Passing | None = None
        self._acceptor: Acceptor | None = None
        self._away_since_s: float | None = plane.now_s()
        self._was_away = True
        """Whether a server was away since the last report of all services."""
        plane.is_server_away = True
        plane.give_to_server = self._give
        plane.on_drained = lambda job_id: self._send(Drained(job_id))
        plane.holding.on_held = self._report_held
        plane.on_state = lambda job_id, is_up, reason: self._send(ReplicaState(job_id, is_up, reason))
        path.unlink(missing_ok=True)
        self._servers = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._servers.bind(str(path))
        self._servers.listen(8)
        self._servers.setblocking(False)

    async def serve(self) -> None:
        """Serve one server after the other."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._servers)
            former, self._server = self._server, Passing(sock, FRAME_BYTES_MAX)
            self._plane.holding.guard_by(None)
            if former is not None:
                former.close()
            self._plane.tasks.start("server", self._follow(self._server))

    async def count(self) -> None:
        """Report sums and drained replicas, and end once the routes are too old."""
        while True:
            await asyncio.sleep(COUNT_EVERY_S)
            if self._server is not None:
                self._report_counts()
                self._report_drained()
            elif self._away_since_s is not None and self._plane.now_s() - self._away_since_s > ROUTES_HOLD_S:
                log.info("No server for %g s: the routes no longer hold", ROUTES_HOLD_S)
                self._leave()

    async def _follow(self, server: Passing) -> None:
        self._hello(server)
        try:
            while True:
                await self._take(server, *await server.receive())
        except EOFError:
            log.info("The server is away")
        except (ConnectionError, DecodeError, OSError) as error:
            log.warning("The server is not understood: %s", error)
        finally:
            server.close()
            if self._server is server:
                self._server = None
                self._plane.holding.guard_by(None)
                self._plane.is_server_away = self._was_away = True
                self._away_since_s = self._plane.now_s()

    def _hello(self, server: Passing) -> None:
        server.send(json.encode(Hello(os.getpid(), __version__, self._plane.routes.version)))
        if self._acceptor is not None:
            server.send(json.encode(Listener()), self._acceptor.listener)

    async def _take(self, server: Passing, frame: bytes, carried: socket.socket | None) -> None:
        plane = self._plane
        match from_server.decode(frame), carried:
            case Snapshot() as snapshot, None:
                plane.routes.replace(snapshot)
                self._begin(server)
            case Changes() as changes, None:
                if not plane.routes.change(changes):
                    server.send(json.encode(Hello(os.getpid(), __version__, 0)))
                    return
                self._report_drained()
            case Listener(), socket.socket() as listener:
                self._listen(listener)
            case Connection(received), socket.socket() as connection:
                await self._adopt(connection, received)
            case Release(), None:
                self._release()
                server.close()
            case Leave(), None:
                self._leave()

    def _begin(self, server: Passing) -> None:
        self._plane.is_server_away = False
        self._plane.server_is_back()
        self._plane.holding.guard_by(_Guard(server))  # it is of our version, since it sends routes
        self._away_since_s = None
        for route in self._plane.routes:
            route.sums.is_new = True
        self._report_drained()

    def _report_counts(self) -> None:
        services = {route.service.id: count for route in self._plane.routes if (count := route.sums.take()) is not None}
        if services:
            self._send(Counted(self._epoch, services, self._was_away))
        self._was_away = False

    def _report_held(self, route: Route) -> None:
        if (count := route.sums.take()) is not None:
            self._send(Counted(self._epoch, {route.service.id: count}, self._was_away))

    def _report_drained(self) -> None:
        for route in self._plane.routes:
            for replica in route.replicas.draining:
                if not replica.outstanding:
                    self._send(Drained(replica.replica.job_id))

    def _listen(self, listener: socket.socket) -> None:
        acceptor = self._acceptor
        if acceptor is not None and os.path.sameopenfile(acceptor.listener.fileno(), listener.fileno()):
            listener.close()  # the next server took this one over
            return
        self._release()
        self._acceptor = Acceptor(listener, lambda: ClientConnection(self._plane))
        self._acceptor.start()

    def _release(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.close()

    async def _adopt(self, sock: socket.socket, received: bytes) -> None:
        assert self._acceptor is not None, "a server shares its listener first"
        await self._acceptor.take(sock, received)

    def _give(self, sock: socket.socket, received: bytes) -> bool:
        return self._server is not None and self._server.send(json.encode(Connection(received)), sock)

    def _send(self, message: FromDataPlane) -> None:
        if self._server is not None:
            self._server.send(json.encode(message))

    async def close(self) -> None:
        """Take no more clients and servers. Clients without a request go to the server."""
        acceptor, server = self._acceptor, self._server
        if self._servers.fileno() >= 0:
            # Otherwise the loop takes the next socket with this number for the closed one.
            asyncio.get_running_loop().remove_reader(self._servers.fileno())
            self._servers.close()
        self._release()
        if acceptor is not None:
            await acceptor.finish()
        self._plane.server_is_back()
        self._plane.leave()
        self._report_counts()
        if server is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await server.drain()
            server.close()


class _Guard:
    """A server as the guard of requests that wait."""

    def __init__(self, server: Passing) -> None:
        self._server = server
        self._kept = 0

    def keep(self, id: int, sock: socket.socket, received: bytes) -> bool:
        if self._kept == HELD_MAX:
            return False
        try:
            is_kept = self._server.send(json.encode(Held(id, received)), sock)
        except OSError:  # no descriptors are left
            return False
        self._kept += is_kept
        return is_kept

    def release(self, ids: Sequence[int]) -> None:
        self._kept -= len(ids)
        self._server.send(json.encode(Released(tuple(ids))))

    def released(self) -> Awaitable[None]:
        return self._server.drain()
