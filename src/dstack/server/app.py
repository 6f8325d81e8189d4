"""The composition root: one server process, from its arguments to its last breath."""

import asyncio
import gc
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.responses import Response

from dstack import __version__
from dstack.errors import DstackError
from dstack.kit.accepting import Acceptor
from dstack.kit.addresses import authority
from dstack.kit.clock import SystemClock
from dstack.kit.environ import conceal
from dstack.kit.ids import RandomIds
from dstack.kit.locks import is_locked
from dstack.kit.tasks import TaskGroup
from dstack.operations.context import Context
from dstack.protocol import routes
from dstack.protocol.proxy import LOCK
from dstack.protocol.views import HealthView
from dstack.server.activity import Activity
from dstack.server.connections import IDLE_TIMEOUT_S, Connection, Lobby, connections_max, connections_of
from dstack.server.data_plane import DataPlane
from dstack.server.http import accounts, audit, backends, blobs, history, inventory, problems, runs, secrets
from dstack.server.http.calls import Tokens, json_of
from dstack.server.http.openapi import Documented
from dstack.server.http.routing import add
from dstack.server.listening import Place, listen
from dstack.server.ownership import Owner, own
from dstack.server.parts import Outside, Parts, outside_of
from dstack.server.settings import CONFIDENTIAL, Settings, settings_from_env
from dstack.store import objects

log = logging.getLogger(__name__)

LOOK_FOR_IDLENESS_EVERY_S = 5.0
GRACE_FOR_REQUESTS_S = 2
STORAGE_THREADS = 32
"""How many log and file pieces are read and written at once: in a bucket each takes its time, mostly to wait."""


def create_app(settings: Settings, context: Context) -> FastAPI:
    """The HTTP application in front of the operations."""
    app = Documented(title="dstack", version=__version__)
    app.state.context = context
    app.state.tokens = Tokens()
    problems.install(app)

    async def health() -> Response:
        """Return the version of the server."""
        return json_of(HealthView(version=__version__, embedded=settings.embedded))

    add(app.router, routes.HEALTH)(health)
    for part in (accounts, audit, backends, runs, history, blobs, secrets, inventory):
        app.include_router(part.router)
    return app


class Server(uvicorn.Server):
    """Uvicorn, which reports when it serves, and ends when no client needs it."""

    def __init__(
        self,
        settings: Settings,
        owner: Owner | None,
        place: Place,
        ready_fd: int | None,
        outside: Outside,
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._place = place
        self._acceptor: Acceptor | None = None
        self._ready_fd = ready_fd
        former = owner.token() if owner is not None else None
        self._token = settings.admin_token or former or RandomIds(SystemClock()).new_token()
        self.url = f"http://{authority(settings.host, place.listener.getsockname()[1])}"
        self._parts = Parts(outside)
        self._data_plane = DataPlane(place.folder, self._parts, outside.clock)
        if is_locked(place.folder / LOCK):
            self._parts.leases.expect_data_plane()
        lobby = Lobby(connections_max(), give=self._data_plane.give)
        self._activity = Activity(create_app(settings, self._parts.context))
        config = uvicorn.Config(
            self._activity,
            http=connections_of(lobby),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE_FOR_REQUESTS_S,
            timeout_keep_alive=IDLE_TIMEOUT_S,
        )
        super().__init__(config)

    async def serve_all(self) -> None:
        """Serve until a signal, or until idle if embedded."""
        beside = TaskGroup()
        if self._settings.embedded:
            beside.keep("idleness", self._stop_when_idle)
        try:
            await self.serve(sockets=[])  # connections come through the acceptor
        finally:
            await beside.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the parts, serve, and report it. Raises `ConfigurationError` where the database cannot be used."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(STORAGE_THREADS, "storage"))
        await self._parts.start(self._token)
        await super().startup(sockets)
        if self.should_exit:
            return
        acceptor = self._acceptor = Acceptor(self._place.listener, self._connection)
        self._data_plane.start(acceptor)
        gc.freeze()  # imported objects stay: the collector need not scan them
        gc.enable()
        if self._owner is not None:
            self._owner.announce(self.url, self._token, embedded=self._settings.embedded, version=__version__)
        log.info("Serving at %s, process %s, data in %s", self.url, os.getpid(), self._settings.data_dir)
        tell(self._ready_fd, {"url": self.url, "token": self._token})
        if self._ready_fd is None:
            if self._owner is not None and self._owner.replaced_pid is not None:
                sys.stdout.write(f"It replaced the background server (process {self._owner.replaced_pid})\n")
            where = "in DSTACK_SERVER_ADMIN_TOKEN" if self._owner is None else f"in {self._owner.data_dir}/server.json"
            sys.stdout.write(f"The server is at {self.url}\nThe admin's token is {where}\n")
            sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Disconnect followers of streams, which have no end; let other requests finish; stop the parts."""
        if self._acceptor is not None:
            self._acceptor.close()
        await self._data_plane.close()
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.response_started and not cycle.response_complete:
                connection.transport.close()
        await super().shutdown(sockets)
        await self._parts.close()

    def _connection(self) -> Connection:
        kind: type[Connection] = self.config.http_protocol_class  # type: ignore[assignment]  # `connections_of` made it
        return kind(self.config, self.server_state, self.lifespan.state)

    async def _stop_when_idle(self) -> None:
        """Without runs, machines and requests there is nothing to serve."""
        db = self._parts.db
        while True:
            await asyncio.sleep(min(LOOK_FOR_IDLENESS_EVERY_S, self._settings.idle_stop_s))
            if self._activity.idle_s() < self._settings.idle_stop_s or not self.started:
                continue
            busy = await db.read(lambda tx: objects.count_unfinished_runs(tx) or len(objects.live_instances(tx)))
            if not busy:
                log.info("Idle for %.0f s without active objects: stopping", self._activity.idle_s())
                self.should_exit = True
                return


def tell(ready_fd: int | None, message: dict[str, str | None]) -> None:
    """Write one JSON line to the process that started the server and waits for it."""
    if ready_fd is not None:
        try:
            os.write(ready_fd, json.dumps(message).encode() + b"\n")
            os.close(ready_fd)
        except OSError:
            log.info("The process that started this server no longer waits for it")


def serve(
    host: str,
    port: int,
    data_dir: Path,
    embedded: bool,
    ready_fd: int | None,
    outside_of: Callable[[Settings], Outside] = outside_of,
) -> int:
    """Run a server until it ends; returns the exit code of the process.

    Args:
        port: 0 for any free one.
        data_dir: where everything is kept; made where missing.
        embedded: whether it ends by itself when idle.
        ready_fd: a pipe that gets `{"url", "token"}` or `{"error", "hint"}` as one JSON line; None for words on stdout.
        outside_of: the world it works in.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o077)  # the database, logs and keys are this user's alone
    try:
        conceal(CONFIDENTIAL)
        settings = settings_from_env(host=host, port=port, data_dir=data_dir, embedded=embedded)
        # Several servers on one database may share a folder; an administrator gives clients their address.
        owner = own(data_dir, embedded=embedded) if settings.database_url is None else None
        server = Server(settings, owner, listen(settings, owner), ready_fd, outside_of(settings))
        asyncio.run(server.serve_all())
    except DstackError as error:
        if ready_fd is None:
            raise
        tell(ready_fd, {"error": error.message, "hint": error.hint})
        return 1
    return 0
