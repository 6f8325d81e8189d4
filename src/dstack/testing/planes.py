"""Made-up data planes: they answer requests along the routes of a server, and report their sums as the real ones do."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dstack.domain.traffic import STEP
from dstack.engine.drains import drained
from dstack.errors import DatabaseUnavailable
from dstack.operations.context import Context
from dstack.protocol.proxy import LATENCIES_S, Count, Counted, Service
from dstack.server.parts import Parts
from dstack.store.users import User
from dstack.testing.clients import Request
from dstack.testing.faults import DataPlaneKills, DeafServers, ServerPauses, SlowDrains
from dstack.testing.nature import Nature
from dstack.testing.servers import Server
from dstack.testing.watch import Watch

REQUESTS_TAKE_S = 20.0
LOOK_AFTER_S = 3.0
"""Changed routes have arrived by then."""
AFTER_TROUBLE_S = 1.0
REPORT_WITHIN_S = 1.0
HOLD_FOR_S = 600.0
"""The longest time for which a request is held."""
_SLOWER = (0,) * len(LATENCIES_S)


@dataclass(slots=True)
class _Sums:
    """The requests of one service since the data plane has started."""

    ended: int = 0
    errors: int = 0
    in_flight: dict[Request, None] = field(default_factory=dict)
    """In the order of their arrival."""
    is_new: bool = True
    """Whether they have changed since the last report."""
    has_more: bool = False
    """Whether requests have arrived since then."""

    @property
    def held(self) -> list[Request]:
        return [request for request in self.in_flight if request.job_id is None]

    def count(self) -> Count:
        return Count(self.ended, self.errors, len(self.in_flight), (self.ended, *_SLOWER), len(self.held))


class DataPlane:
    """The data plane of one server. It begins with the first service, and outlives the server."""

    def __init__(self, server: Server, nature: Nature, watch: Watch) -> None:
        self.has_begun = False
        """Whether it lives."""
        self._server = server
        self._nature = nature
        self._watch = watch
        self._parts: Parts | None = None
        """The server to which it is connected."""
        self._services: Mapping[str, Service] = {}
        """The routes that it knows."""
        self._sums: dict[str, _Sums] = {}
        self._lives = 1
        self._was_away = True
        """Whether a server was away since the last report."""
        self._is_killed = asyncio.Event()
        self._reporting: asyncio.TimerHandle | None = None
        self._answered = asyncio.Event()
        """Replaced whenever a request has ended."""
        self._open: list[asyncio.Task[None]] = []
        """The tasks of one connection to the server."""
        self._draining: dict[str, asyncio.Task[None]] = {}
        """Those of them that wait for the last request of a replica, by its job."""
        self._hears_everything = nature.find(DeafServers) is None and nature.find(ServerPauses) is None
        watch.when_job_ends.append(self._lose_replica)

    async def live(self) -> None:
        """Follow one life of the server after the other, until cancelled."""
        while True:
            parts = await self._server.is_up()
            self._is_killed.clear()
            self._do(self._follow(parts))
            ends: list[asyncio.Task[Any]] = [
                asyncio.create_task(self._server.switch.wait()),
                asyncio.create_task(self._is_killed.wait()),
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*ends, *self._open):
                    task.cancel()
                self._open.clear()
                self._draining.clear()
                self._parts, self._was_away = None, True
            await asyncio.sleep(AFTER_TROUBLE_S)

    def kill(self) -> None:
        """End it with all its requests. Another one follows."""
        lost = [request for sums in self._sums.values() for request in sums.in_flight]
        self.has_begun, self._services, self._sums = False, {}, {}
        self._lives += 1
        self._is_killed.set()
        for request in lost:
            self._forget(request)
            request.lost(request)

    def knows(self, service_id: str) -> bool:
        """Return whether it answers requests for a service."""
        return service_id in self._services

    def take(self, request: Request) -> None:
        """Send a request to a replica, hold it, or refuse it."""
        request.arrived_s = asyncio.get_running_loop().time()
        sums = self._sums.setdefault(request.service_id, _Sums())
        sums.in_flight[request] = None
        sums.has_more = True
        self._watch.scaling.came(request)
        self._place(request)
        is_first = request.job_id is None and len(sums.held) == 1
        self._changed(sums, within_s=0.0 if is_first else REPORT_WITHIN_S)

    def _place(self, request: Request) -> None:
        service = self._services[request.service_id]
        replicas = [one.job_id for one in service.replicas if self._watch.truth.runs_on(one.job_id)]
        if replicas:
            request.job_id = min(replicas, key=lambda job_id: len(self._requests_of(job_id)))
            request.then(request.takes_s, self._answer)
        elif service.starts and request.timer is None:
            request.then(HOLD_FOR_S, self._refuse)
            self._watch.scaling.held(request)
        elif service.replicas:  # its end is not known yet
            self._break(request)
        elif not service.starts:
            self._refuse(request)

    def _answer(self, request: Request, *, is_error: bool = False) -> None:
        sums = self._sums[request.service_id]
        sums.ended += 1
        sums.errors += is_error
        self._forget(request)
        self._changed(sums)

    def _refuse(self, request: Request) -> None:
        """Answer that no replica is ready."""
        self._watch.scaling.refused(request, is_punctual=self._hears_everything and self._parts is not None)
        self._answer(request, is_error=True)

    def _lose_replica(self, job_id: str, end: str) -> None:
        """Break the requests of a replica that has ended."""
        requests = self._requests_of(job_id)
        if requests and end == "stopped" and self._parts is not None:
            self._watch.scaling.cut(job_id, len(requests), self._parts.leases.replica_id)
        for request in requests:
            self._break(request)

    def _break(self, request: Request) -> None:
        self._answer(request, is_error=True)
        request.lost(request)

    def _requests_of(self, job_id: str) -> Sequence[Request]:
        return [one for sums in self._sums.values() for one in sums.in_flight if one.job_id == job_id]

    def _forget(self, request: Request) -> None:
        request.forget()
        if (sums := self._sums.get(request.service_id)) is not None:
            sums.in_flight.pop(request, None)
        self._watch.scaling.ended(request)
        self._answered.set()
        self._answered = asyncio.Event()

    def _changed(self, sums: _Sums, within_s: float = REPORT_WITHIN_S) -> None:
        sums.is_new = True
        self._report_within(within_s)

    def _report_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._reporting is not None:
            if self._reporting.when() <= loop.time() + seconds:
                return
            self._reporting.cancel()
        self._reporting = loop.call_later(seconds, self._report)

    def _report(self) -> None:
        """Report sums that have changed. The others are reported as often as a server stores them."""
        self._reporting = None
        if self._parts is None or not self._server.is_serving:
            return  # the next server gets them at once
        counts = {id: sums.count() for id, sums in self._sums.items() if sums.is_new or sums.in_flight}
        if not counts:
            return
        for id in counts:
            sums = self._sums[id]
            if sums.has_more:
                self._watch.scaling.reported(id)
            sums.is_new = sums.has_more = False
        counted = Counted(f"{self._server.name}/{self._lives}", counts, self._was_away)
        self._was_away = False
        with self._server.switch.around_calls():
            self._parts.traffic.take(counted)
        if any(sums.in_flight for sums in self._sums.values()):
            self._report_within(STEP.total_seconds())

    def _do(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._open = [task for task in self._open if not task.done()]
        task = asyncio.create_task(what)
        self._open.append(task)
        return task

    async def _follow(self, parts: Parts) -> None:
        book = parts.routes.book
        while True:
            if book.services and not self.has_begun:
                await self._begin(parts)
            if self.has_begun and book.version:
                self._connect(parts, book.services)
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

    def _connect(self, parts: Parts, services: Mapping[str, Service]) -> None:
        """Go on with these routes."""
        self._services = services
        if self._parts is None:
            self._parts = parts
            for sums in self._sums.values():
                self._changed(sums, within_s=0.0)
        for id, sums in self._sums.items():
            for request in sums.held:
                if id in services:
                    self._place(request)
                else:
                    self._answer(request, is_error=True)
        draining = {one.job_id for service in services.values() for one in service.draining}
        for job_id in self._draining.keys() - draining:
            self._draining.pop(job_id).cancel()
        for job_id in sorted(draining - self._draining.keys()):
            self._draining[job_id] = self._do(self._finish(parts, job_id))

    async def _finish(self, parts: Parts, job_id: str) -> None:
        """Let the requests of a draining replica end, and report it."""
        slow = self._nature.find(SlowDrains)
        if slow is not None and self._nature.chance.random() < slow.never:
            return
        await asyncio.sleep(self._nature.within(REQUESTS_TAKE_S if slow is None else slow.at_most_s))
        while self._requests_of(job_id):
            await self._answered.wait()
        self._do(self._acknowledge(parts, job_id))

    async def _acknowledge(self, parts: Parts, job_id: str) -> None:
        async def acknowledge(context: Context, user: User) -> None:
            await context.db.write(lambda tx: drained(tx, job_id, parts.leases.replica_id))

        await self._server.ask(acknowledge)

    async def _send_requests(self, parts: Parts) -> None:
        """Send requests along the routes, once these have arrived."""
        await asyncio.sleep(LOOK_AFTER_S)
        services = parts.routes.book.services.values()
        self._watch.routed(one.job_id for service in services for one in service.replicas)


async def kill_planes(nature: Nature, planes: Sequence[DataPlane]) -> None:
    """Kill a data plane now and then, until cancelled."""
    fault = nature.find(DataPlaneKills)
    while fault is not None:
        await asyncio.sleep(nature.chance.expovariate(1 / fault.every_s))
        living = [plane for plane in planes if plane.has_begun]
        if living:
            nature.observer.told("a data plane", "is killed")
            nature.chance.choice(living).kill()
