"""Points of jobs, on their way into the database; and the end of runs that they show to be idle.

Nobody waits for a point to be stored, so that many are stored together: before some jobs comes a pause that grows with
their number, so that points take a hundredth or two of the writer's time, whether ten jobs run or ten thousand (one job
takes 60 microseconds). A point is there within a second of its coming where few run, and within half a minute where
very many do.

Any server may store what it was told, also of an instance that another one sees to by now: a point that comes twice is
there once. Nothing is polled for idle runs: those are looked at whose points are stored, where they may be idle.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from dstack.domain.objects import Job
from dstack.domain.specs import configuration_in
from dstack.domain.utilization import are_recent, kept_for, left_of_window, may_be_idle, why_idle
from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.protocol.agent import Point
from dstack.protocol.statuses import JobReason, JobStatus
from dstack.spec.profile import UtilizationPolicy
from dstack.store import commits, metrics, objects
from dstack.store.db import Database
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

JOBS_PER_WRITE = 100
PAUSE_PER_JOB = timedelta(milliseconds=5)
PAUSE_MAX = timedelta(seconds=30)
AFTER_TROUBLE = timedelta(seconds=10)
WAITING_MAX = 200_000
"""Points; what comes beyond that is lost, as the oldest are on a host without a server."""


Come = Mapping[tuple[str, str], Sequence[Point]]
"""Points by instance and job."""


class Measurements:
    """Takes points from all links, and stores them in its own time."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._waiting: dict[tuple[str, str], list[Point]] = {}
        """By instance and job."""
        self._count = 0
        self._is_storing = False
        self._busy_until: dict[str, datetime] = {}
        """Before when a run cannot have been idle for long enough; by its id."""
        self._tasks = TaskGroup()

    def take(self, instance_id: str, points: Mapping[str, Sequence[Point]]) -> None:
        """Have an agent's points stored."""
        for job_id, some in points.items():
            if self._count + len(some) > WAITING_MAX:
                log.warning("Points of job %s are lost: too many wait to be stored", job_id)
                continue
            self._waiting.setdefault((instance_id, job_id), []).extend(some)
            self._count += len(some)
        if self._waiting and not self._is_storing:
            self._is_storing = True
            self._tasks.start("storing metrics", self._store_all())

    async def close(self) -> None:
        """Store what has come."""
        await self._tasks.close()
        try:
            while self._waiting:
                await self._store_some()
        except DatabaseUnavailable as error:
            log.warning("The last metrics of jobs are not stored: %s", error)

    async def _store_all(self) -> None:
        try:
            while self._waiting:
                await self._clock.sleep(min(PAUSE_PER_JOB * len(self._waiting), PAUSE_MAX))
                try:
                    for _ in range(0, len(self._waiting), JOBS_PER_WRITE):
                        await self._store_some()
                except DatabaseUnavailable as error:
                    log.warning("The metrics of jobs are stored later: %s", error)
                    await self._clock.sleep(AFTER_TROUBLE)
        finally:
            self._is_storing = False

    async def _store_some(self) -> None:
        some = {key: self._waiting.pop(key) for key in list(islice(self._waiting, JOBS_PER_WRITE))}
        count = sum(map(len, some.values()))
        try:
            await self._db.write(partial(self._store, come=some))
        except DatabaseUnavailable:
            for key, points in some.items():
                self._waiting[key] = [*points, *self._waiting.get(key, ())]
            self._count += count
            raise
        finally:
            self._count -= count

    def _store(self, tx: Tx, come: Come) -> None:
        """Write down what agents say of jobs that are on record there, and end the runs that are idle."""
        jobs = {job.id: job for job in objects.jobs_by_id(tx, [job_id for _, job_id in come])}
        points = {id: some for (instance, id), some in come.items() if id in jobs and jobs[id].instance_id == instance}
        runs = {id: run for id in {jobs[id].run_id for id in points} if (run := objects.find_run(tx, id)) is not None}
        wanted = {id: configuration_in(run.current).utilization_policy for id, run in runs.items()}
        policies = {id: policy for id, policy in wanted.items() if policy is not None}
        judged = {id: policies[jobs[id].run_id] for id in points if jobs[id].run_id in policies}
        metrics.add(tx, points, {id: max(kept_for(policy), metrics.KEEP) for id, policy in judged.items()})
        suspects = {jobs[id].run_id for id, policy in judged.items() if may_be_idle(policy, points[id])}
        self._busy_until = {id: at for id, at in self._busy_until.items() if at > tx.clock.now()}
        for run_id in sorted(suspects - self._busy_until.keys()):
            self._end_if_idle(tx, run_id, policies[run_id])

    def _end_if_idle(self, tx: Tx, run_id: str, policy: UtilizationPolicy) -> None:
        jobs = [job for job in objects.jobs_of_run(tx, run_id) if not job.status.is_finished()]
        points = [metrics.read(tx, job.id, kept_for(policy)) for job in jobs if _is_heard(tx, job)]
        if not jobs or len(points) < len(jobs) or not all(points):
            return
        if not are_recent(points, tx.clock.now().timestamp()):
            return  # an agent catches up: what it tells next may be that the cards are busy again
        left = max(left_of_window(policy, of_job) for of_job in points)
        if left > timedelta(0):
            self._busy_until[run_id] = tx.clock.now() + left
            return
        # The run ends as its first job does.
        commits.record(tx, replace(jobs[0], stop_asked=JobReason.UTILIZATION, detail=why_idle(policy, points)))


def _is_heard(tx: Tx, job: Job) -> bool:
    """Whether it runs, nobody wants it to end, and its points come."""
    instance = objects.find_instance(tx, job.instance_id or "")
    is_up = instance is not None and instance.unreachable_since is None
    return is_up and job.status is JobStatus.RUNNING and job.stop_asked is None
