"""The only loop: look, decide, commit, act, record.

A wake is a hint that looking may be worth while, never a message: losing one costs time, not correctness, because every
object is also looked at now and then.
"""

import asyncio
import logging
from datetime import datetime, timedelta

from sqlalchemy.exc import DatabaseError

from dstack.domain.objects import Next
from dstack.engine import views
from dstack.engine.catalog import Catalog
from dstack.engine.lifecycles import INSTANCE, JOB, RUN, check_move
from dstack.engine.scheduler import schedule
from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import Clock
from dstack.kit.ids import Ids
from dstack.kit.tasks import TaskGroup
from dstack.store import commits, objects, wakes
from dstack.store.db import Database
from dstack.store.notices import Notices
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

LOOKS_PER_COMMIT = 200
SWEEP_EVERY = timedelta(minutes=1)
AFTER_A_BUG = timedelta(seconds=30)


def _scheduler_last(who: tuple[str, str]) -> bool:
    """Placement sees what all the others have decided."""
    return who[0] == "scheduler"


class Engine:
    """Turns wakes into looks until it is closed."""

    def __init__(self, db: Database, clock: Clock, ids: Ids, catalog: Catalog) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._catalog = catalog
        self._next_due: datetime | None = None
        self._woken = asyncio.Event()
        self._tasks = TaskGroup()

    def start(self) -> None:
        """Begin to turn; what a former server left undone is looked at first."""
        self._db.react(self.turn)
        self._db.listen(self._hear)
        self._tasks.start("engine", self._run())
        self._tasks.start("sweep", self._sweep())

    async def close(self) -> None:
        """Stop looking; every wake is on record."""
        await self._tasks.close()

    def _hear(self, notices: Notices) -> None:
        if notices.everything:
            self._woken.set()
        if notices.next_due is not None and (self._next_due is None or notices.next_due < self._next_due):
            self._next_due = notices.next_due
            self._woken.set()

    async def _sweep(self) -> None:
        while True:
            try:
                if await self._db.read(objects.is_anyone_queued):
                    await self._catalog.offers()  # capacity comes and goes
                await self._db.write(wakes.add_all)
            except DatabaseUnavailable:
                log.exception("The database does not take writes; the next sweep is in %s", SWEEP_EVERY)
            await self._clock.sleep(SWEEP_EVERY)

    async def _run(self) -> None:
        """Look at what falls due by time, and at what was left over; the rest is looked at where it was woken."""
        while True:
            self._woken.clear()
            try:
                self._next_due = await self._db.write(wakes.take_due)
            except DatabaseUnavailable:
                log.exception("The database does not take writes; tried again in %s", AFTER_A_BUG)
                await self._clock.sleep(AFTER_A_BUG)
                continue
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

    def turn(self, tx: Tx) -> None:
        """Look at what is due in this transaction, and at what that wakes, until nothing is due or it is enough."""
        looks = 0
        while looks < LOOKS_PER_COMMIT:
            now = tx.clock.now()
            due = [who for who, at in tx.wakes.items() if at <= now]
            if not due:
                return
            for kind, id in sorted(due, key=_scheduler_last):
                del tx.wakes[kind, id]
                self._look(tx, kind, id)
            looks += len(due)

    def _look(self, tx: Tx, kind: str, id: str) -> None:
        """One look. A bug concerns its object alone: deciding writes nothing, and a commit checks before it writes."""
        try:
            if kind == "scheduler":
                schedule(tx, self._catalog.snapshot(), self._ids, check_move)
            elif (decided := self._decide(tx, kind, id)) is not None:
                commits.commit(tx, decided, check_move)
                if decided.again is not None:
                    wakes.add(tx, kind, id, after=decided.again)
        except DatabaseError:
            raise
        except Exception:
            log.exception("Looking at %s %s failed; it is looked at again in %s", kind, id, AFTER_A_BUG)
            tx.known.clear()  # should what is remembered be wrong, the next look reads afresh
            tx.lists.clear()
            wakes.add(tx, kind, id, after=AFTER_A_BUG)

    def _decide(self, tx: Tx, kind: str, id: str) -> Next | None:
        """What the object's step says; None for an object that is gone or final."""
        match kind:
            case "run":
                run = views.run_view(tx, id, self._ids)
                run_step = RUN.step(run.run.status) if run else None
                return run_step(run) if run and run_step else None
            case "job":
                job = views.job_view(tx, id)
                job_step = JOB.step(job.job.status) if job else None
                return job_step(job) if job and job_step else None
            case "instance":
                instance = views.instance_view(tx, id)
                step = INSTANCE.step(instance.instance.status) if instance else None
                return step(instance) if instance and step else None
            case _:
                return None  # whoever made it looks himself
