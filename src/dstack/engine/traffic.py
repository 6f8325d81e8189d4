"""The requests of services, on their way from this server's data plane into the database.

There all servers find the sums of all data planes. A data plane reports sums since its start, under an id of that life.
A report that comes again, to this server or to the next one, changes nothing.
"""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

from dstack.domain.traffic import STEP, Sums, sums_of
from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.protocol.proxy import Count, Counted
from dstack.store import traffic
from dstack.store.db import Database
from dstack.store.traffic import Key

log = logging.getLogger(__name__)

PAUSE = timedelta(seconds=1)
PAUSE_PER_SERVICE = timedelta(milliseconds=10)
PAUSE_MAX = STEP
AFTER_TROUBLE = timedelta(seconds=10)
SERVICES_MAX = 10_000
"""The bound of the services whose sums wait; those beyond it come with their next request."""


class TrafficLog:
    """Takes the sums from the data plane, and stores them in its own time: few services within seconds."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._waiting: dict[Key, Sums] = {}
        self._taken: dict[Key, tuple[float, Count]] = {}
        """The ten seconds and the sums of the last report, by service, of this life of the data plane."""
        self._is_storing = False
        self._is_urgent = asyncio.Event()
        """Whether a request waits for a replica that was not known to wait."""
        self._tasks = TaskGroup()

    def take(self, counted: Counted) -> None:
        """Store the sums of some services, in a while."""
        at = self._clock.now().timestamp()
        step = at // STEP.total_seconds()
        if any(source != counted.epoch for _, source in self._taken):
            self._end_former(at)
        for run_id, count in counted.services.items():
            key = run_id, counted.epoch
            if self._taken.get(key) == (step, count):
                continue  # requests that go on are reported each second
            if len(self._waiting) >= SERVICES_MAX and key not in self._waiting:
                log.warning("The requests of service %s are stored later: too many services wait", run_id)
                continue
            _, former = self._taken.get(key, (0, None))
            if count.held and (former is None or not former.held):
                self._is_urgent.set()
            self._taken[key] = step, count
            before = self._waiting.get(key)
            is_late = counted.is_late or (before is not None and before.is_late)
            self._waiting[key] = sums_of(count, at, is_late=is_late)
        if self._waiting and not self._is_storing:
            self._is_storing = True
            self._tasks.start("storing the traffic", self._store_all())

    def _end_former(self, at: float) -> None:
        """Note that the former data plane has no request in flight any more."""
        for key, (_, count) in self._taken.items():
            if count.in_flight:
                self._waiting[key] = replace(sums_of(count, at), in_flight=0, held=0)
        self._taken.clear()

    async def close(self) -> None:
        """Store what has come."""
        await self._tasks.close()
        try:
            await self._store()
        except DatabaseUnavailable as error:
            log.warning("The last requests of services are not stored; the data plane has their sums: %s", error)

    async def _store_all(self) -> None:
        try:
            while self._waiting:
                await self._pause(min(PAUSE + PAUSE_PER_SERVICE * len(self._waiting), PAUSE_MAX))
                try:
                    await self._store()
                except DatabaseUnavailable as error:
                    log.warning("The requests of services are stored later: %s", error)
                    await self._clock.sleep(AFTER_TROUBLE)
        finally:
            self._is_storing = False

    async def _pause(self, time: timedelta) -> None:
        """Collect more of it for a time, unless a request waits for a replica."""
        ways = [asyncio.create_task(self._clock.sleep(time)), asyncio.create_task(self._is_urgent.wait())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
        self._is_urgent.clear()

    async def _store(self) -> None:
        some, self._waiting = self._waiting, {}
        if not some:
            return
        try:
            await self._db.write(lambda tx: traffic.add(tx, some))
        except BaseException:
            self._waiting = {**some, **self._waiting}
            self._waiting = {key: replace(sums, is_late=True) for key, sums in self._waiting.items()}
            raise
