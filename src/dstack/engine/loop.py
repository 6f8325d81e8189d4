"""The only loop: look, decide, commit (`engine.turn`), act, record (`engine.outbox`).

A wake is a hint that looking may be worth while, never a message: losing one costs time, not correctness, because every
object is also looked at now and then.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from functools import partial

from dstack.engine.catalog import Catalog
from dstack.engine.leases import Leases
from dstack.engine.scheduler import PLACEMENT
from dstack.engine.turn import AFTER_A_BUG, LOOKS_PER_COMMIT, Turn
from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import Clock
from dstack.kit.ids import Ids
from dstack.kit.tasks import TaskGroup
from dstack.store import queue, wakes
from dstack.store.db import Database
from dstack.store.notices import Notices
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

SWEEP_EVERY = timedelta(minutes=1)
SWEEP = "sweep"
"""The key whose shard's owner sweeps."""


class Engine:
    """Turns wakes into looks until it is closed."""

    def __init__(self, db: Database, clock: Clock, ids: Ids, catalog: Catalog, leases: Leases) -> None:
        self._db = db
        self._leases = leases
        self._clock = clock
        self._catalog = catalog
        self._turn = Turn(ids, catalog)
        self._next_due: datetime | None = None
        self._woken = asyncio.Event()
        self._tasks = TaskGroup()

    def start(self) -> None:
        """Begin to turn; what a former server left undone is looked at first."""
        self._db.react(self._turn.take)
        self._db.listen(self._hear)
        self._catalog.listen(self._market_changed)
        self._tasks.keep("engine", self._run)
        self._tasks.keep("sweep", self._sweep)

    async def close(self) -> None:
        """Stop looking; every wake is on record."""
        await self._tasks.close()

    def why_waiting(self, run_id: str) -> str | None:
        """Why a run waits in the queue, where it is near the head."""
        return self._turn.why_waiting(run_id)

    def _hear(self, notices: Notices) -> None:
        due = self._clock.now() if notices.everything else notices.next_due
        if due is not None and (self._next_due is None or due < self._next_due):
            self._next_due = due
            self._woken.set()

    async def _sweep(self) -> None:
        """Wake all that is unfinished, now and then. One server of a database does it for all of them."""
        while True:
            try:
                if not await self._db.recall(queue.is_empty):
                    await self._catalog.market()  # the resources of this machine may have changed
                if self._leases.owns(SWEEP):
                    await self._look_at_all()
            except DatabaseUnavailable:
                log.exception("The database does not take writes; the next sweep is in %s", SWEEP_EVERY)
            await self._clock.sleep(SWEEP_EVERY)

    def _market_changed(self) -> None:
        self._tasks.start("placement on a changed market", self._place_again())

    async def _place_again(self) -> None:
        """Look at the queue after a change of the market. The sweep follows where that does not work now."""
        try:
            await self._db.write(_wake_if_waiting)
        except DatabaseUnavailable as error:
            log.warning("The queue was not looked at after a change of the market: %s", error)

    async def _look_at_all(self) -> None:
        """In parts, so that nobody has to wait for long."""
        everything = await self._db.read(wakes.everything)
        for start in range(0, len(everything), LOOKS_PER_COMMIT):
            part = everything[start : start + LOOKS_PER_COMMIT]
            await self._db.write(partial(wakes.add_many, whom=part))

    async def _run(self) -> None:
        """Look at what falls due by time, and at what was left over; the rest is looked at where it was woken."""
        while True:
            self._next_due = None  # looking leaves wakes of its own: they are heard of before it returns
            try:
                left = await self._db.write(wakes.take_due)
            except DatabaseUnavailable:
                log.exception("The database does not take writes; tried again in %s", AFTER_A_BUG)
                await self._clock.sleep(AFTER_A_BUG)
                continue
            self._next_due = min(filter(None, [left, self._next_due]), default=None)
            self._woken.clear()
            await self._wait()

    async def _wait(self) -> None:
        """Until the next wake is due; one that is left meanwhile may be due earlier."""
        if self._next_due is None:
            await self._woken.wait()
            return
        span = max(self._next_due - self._clock.now(), timedelta(0))
        woken = asyncio.ensure_future(self._woken.wait())
        timer = asyncio.ensure_future(self._clock.sleep(span))
        try:
            await asyncio.wait([woken, timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            timer.cancel()


def _wake_if_waiting(tx: Tx) -> None:
    if not queue.is_empty(tx):
        wakes.add(tx, *PLACEMENT)
