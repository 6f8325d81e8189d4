"""The only loop: look, decide, commit, act, record.

A wake is a hint that looking may be worth while, never a message: losing one costs time, not correctness, because every
object is also looked at now and then.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from dstack.domain.objects import Next
from dstack.engine import views
from dstack.engine.catalog import Catalog
from dstack.engine.lifecycles import INSTANCE, JOB, RUN
from dstack.engine.outbox import Outbox
from dstack.engine.scheduler import schedule
from dstack.errors import Conflict
from dstack.kit.clock import Clock
from dstack.kit.ids import Ids
from dstack.kit.tasks import TaskGroup
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.store import objects, wakes
from dstack.store.db import Database, Notices, Tx

log = logging.getLogger(__name__)

LOOKS_PER_COMMIT = 50
SWEEP_EVERY = timedelta(minutes=1)
AFTER_A_BUG = timedelta(seconds=30)


def check_move(kind: str, old: objects.Status, new: objects.Status) -> None:
    """Raise `IllegalMove` unless the table of this kind has the move."""
    match old, new:
        case RunStatus(), RunStatus():
            RUN.check(old, new)
        case JobStatus(), JobStatus():
            JOB.check(old, new)
        case InstanceStatus(), InstanceStatus():
            INSTANCE.check(old, new)
        case _:
            raise TypeError(f"{kind} cannot go from {old!r} to {new!r}")


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a turn: whether there may be more to do at once, and when there will be."""

    was_full: bool
    next_due: datetime | None


class Engine:
    """Turns wakes into looks until it is closed."""

    def __init__(self, db: Database, clock: Clock, ids: Ids, catalog: Catalog, outbox: Outbox) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._catalog = catalog
        self._outbox = outbox
        self._woken = asyncio.Event()
        self._tasks = TaskGroup()

    def start(self) -> None:
        """Begin to turn; what a former server left undone is looked at first."""
        self._db.listen(self._hear)
        self._outbox.start()
        self._tasks.start("engine", self._run())
        self._tasks.start("sweep", self._sweep())

    async def close(self) -> None:
        """Stop looking and acting; everything that is open is on record."""
        await self._tasks.close()
        await self._outbox.close()

    def _hear(self, notices: Notices) -> None:
        if notices.wakes:
            self._woken.set()

    async def _sweep(self) -> None:
        while True:
            await self._db.write(wakes.add_all)
            await self._clock.sleep(SWEEP_EVERY)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                turn = await self._db.write(self._turn)
            except Exception:
                log.exception("A turn of the engine failed; the next one follows in %s", AFTER_A_BUG)
                await self._clock.sleep(AFTER_A_BUG)
                continue
            if not turn.was_full:
                await self._wait(turn.next_due)

    async def _wait(self, until: datetime | None) -> None:
        if until is None:
            await self._woken.wait()
            return
        span = max(until - self._clock.now(), timedelta(0))
        woken = asyncio.ensure_future(self._woken.wait())
        timer = asyncio.ensure_future(self._clock.sleep(span))
        try:
            await asyncio.wait([woken, timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            timer.cancel()

    def _turn(self, tx: Tx) -> Turn:
        """Look at what is due, in one transaction: a crash before its end puts every wake back."""
        due = wakes.take_due(tx, LOOKS_PER_COMMIT)
        for kind, id in due:
            try:
                with tx.conn.begin_nested():
                    self._look(tx, kind, id)
            except Conflict:
                wakes.add(tx, kind, id)
            except Exception:
                log.exception("Looking at %s %s failed; it is looked at again in %s", kind, id, AFTER_A_BUG)
                wakes.add(tx, kind, id, after=AFTER_A_BUG)
        return Turn(len(due) == LOOKS_PER_COMMIT, wakes.next_due(tx))

    def _look(self, tx: Tx, kind: str, id: str) -> None:
        if kind == "scheduler":
            schedule(tx, self._catalog.snapshot(), self._ids, check_move)
            return
        decided = self._decide(tx, kind, id)
        if decided is None:
            return
        objects.commit(tx, decided, check_move)
        if decided.again is not None:
            wakes.add(tx, kind, id, after=decided.again)

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
            case _:
                instance = views.instance_view(tx, id)
                step = INSTANCE.step(instance.instance.status) if instance else None
                return step(instance) if instance and step else None
