"""Made-up data planes: they follow the routes of a server, and finish the requests of replicas that drain."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from dstack.engine.drains import drained
from dstack.errors import DatabaseUnavailable
from dstack.operations.context import Context
from dstack.server.parts import Parts
from dstack.store.users import User
from dstack.testing.faults import DeafServers, ServerPauses, SlowDrains
from dstack.testing.nature import Nature
from dstack.testing.servers import Server
from dstack.testing.watch import Watch

REQUESTS_TAKE_S = 20.0
LOOK_AFTER_S = 3.0
"""Changed routes have arrived by then."""
AFTER_TROUBLE_S = 1.0


class DataPlane:
    """The data plane of one server. It begins with the first service, and outlives the server."""

    def __init__(self, server: Server, nature: Nature, watch: Watch) -> None:
        self.has_begun = False
        self._server = server
        self._nature = nature
        self._watch = watch
        self._open: list[asyncio.Task[None]] = []
        """The tasks during one life of the server."""
        self._hears_everything = nature.find(DeafServers) is None and nature.find(ServerPauses) is None

    async def live(self) -> None:
        """Follow one life of the server after the other, until cancelled."""
        while True:
            parts = await self._server.is_up()
            self._do(self._follow(parts))
            try:
                await self._server.switch.wait()
            finally:
                for task in self._open:
                    task.cancel()
                self._open.clear()
            await asyncio.sleep(AFTER_TROUBLE_S)

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        self._open = [task for task in self._open if not task.done()]
        self._open.append(asyncio.create_task(what))

    async def _follow(self, parts: Parts) -> None:
        seen = set[str]()
        book = parts.routes.book
        while True:
            if book.services and not self.has_begun:
                await self._begin(parts)
            draining = {one.job_id for service in book.services.values() for one in service.draining}
            for job_id in sorted(draining - seen):
                seen.add(job_id)
                self._do(self._finish(parts, job_id))
            if book.services and self._hears_everything:
                self._do(self._send_requests(parts))
            book = await parts.routes.wait(book.version)

    async def _begin(self, parts: Parts) -> None:
        while True:
            try:
                await parts.leases.set_data_plane(is_there=True)
            except DatabaseUnavailable:
                await asyncio.sleep(AFTER_TROUBLE_S)
            else:
                self.has_begun = True
                return

    async def _finish(self, parts: Parts, job_id: str) -> None:
        """Let the requests of a draining replica end, and report it."""
        slow = self._nature.find(SlowDrains)
        if slow is not None and self._nature.chance.random() < slow.never:
            return
        await asyncio.sleep(self._nature.within(REQUESTS_TAKE_S if slow is None else slow.at_most_s))

        async def acknowledge(context: Context, user: User) -> None:
            await context.db.write(lambda tx: drained(tx, job_id, parts.leases.replica_id))

        await self._server.ask(acknowledge)

    async def _send_requests(self, parts: Parts) -> None:
        """Send requests along the routes, once these have arrived."""
        await asyncio.sleep(LOOK_AFTER_S)
        services = parts.routes.book.services.values()
        self._watch.routed(one.job_id for service in services for one in service.replicas)
