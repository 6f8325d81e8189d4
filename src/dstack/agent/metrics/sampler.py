"""Takes the points: of each running job one every ten seconds, and the first ones sooner.

All jobs share the moments, so that a host's points are one reading of its cards and one message. Where a job ends
between two moments, what it used since the last is not told: its processes and its control group are gone by then.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dstack.agent.gpus.usage import GpuUsage, read_gpu_usage
from dstack.agent.jobs import Jobs
from dstack.agent.lives import RUNNING, Job
from dstack.agent.metrics.buffer import Buffer
from dstack.agent.metrics.usage import Usage
from dstack.kit.clock import Clock
from dstack.protocol.agent import GpuPoint, Point

log = logging.getLogger(__name__)

EVERY_S = 10.0
FIRST_S = (1.0, 3.0)
"""The first ones come this long after a job is known to run: there are short jobs, and people who wait to see one."""
YOUNG_S = 5.0
"""What has run no longer has its CPU time from then on; what was found running is read at once to begin with."""
TOGETHER_S = 0.5
"""Who is due within this is read along."""

ReadGpus = Callable[[], Mapping[int, GpuUsage]]


@dataclass(slots=True)
class _Track:
    """How far one job is; times are of the monotonic clock."""

    due: float
    firsts: list[float]
    """When to read it beside the moments of all."""
    read_at: float = 0.0
    cpu_s: float | None = None

    def plan(self, now: float, begin: float) -> None:
        """When to read it next."""
        shared = begin + EVERY_S * math.floor((now + TOGETHER_S - begin) / EVERY_S + 1)
        self.due = self.firsts.pop(0) if self.firsts else shared

    def cores(self, cpu_s: float | None, now: float) -> float | None:
        """How many were busy since the reading before, which this one is compared with."""
        before, self.cpu_s = self.cpu_s, cpu_s
        span_s, self.read_at = now - self.read_at, now
        if before is None or cpu_s is None or span_s <= 0:
            return None
        return round(max(0.0, cpu_s - before) / span_s, 3)


class Sampler:
    """Reads what the running jobs use, for as long as the agent lives."""

    def __init__(self, jobs: Jobs, clock: Clock, read_gpus: ReadGpus = read_gpu_usage) -> None:
        self.points = Buffer()
        """What is on its way to the server."""
        self._jobs = jobs
        self._clock = clock
        self._read_gpus = read_gpus
        self._begin = time.monotonic()
        """Hosts do not read at the same moments: what they say would come all at once."""
        self._tracks: dict[str, _Track] = {}
        self._woken = asyncio.Event()

    def job_runs(self) -> None:
        """A job has started, or was found running."""
        self._woken.set()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            self._woken.clear()
            try:
                next_due = await self._read_those_due()
            except Exception:  # nobody depends on points, and the next ones may succeed
                log.exception("The usage of jobs could not be read")
                next_due = time.monotonic() + EVERY_S
            try:
                async with asyncio.timeout(None if next_due is None else max(0.0, next_due - time.monotonic())):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _read_those_due(self) -> float | None:
        """Returns when the next one is due; None where none runs."""
        now = time.monotonic()
        running = {job.order.job_id: job for job in self._jobs.all() if job.report.state == RUNNING}
        self.points.keep_only({job.order.job_id for job in self._jobs.all()})
        self._tracks = {id: self._tracks.get(id) or self._begun(job, now) for id, job in running.items()}
        due = [job for id, job in running.items() if self._tracks[id].due <= now + TOGETHER_S]
        if due:
            read_at, usages, gpus = await asyncio.to_thread(self._read, due)
            at = round(self._clock.now().timestamp(), 3)
            taken = {job.order.job_id: self._point(job, usages, gpus, read_at, at) for job in due}
            self.points.add({id: point for id, point in taken.items() if point is not None})
        return min((track.due for track in self._tracks.values()), default=None)

    def _begun(self, job: Job, now: float) -> _Track:
        started_at = job.report.started_at
        age_s = math.inf if started_at is None else max(0.0, self._clock.now().timestamp() - started_at)
        firsts = [now + after for after in FIRST_S]
        return _Track(firsts[0], firsts[1:], now - age_s, 0.0) if age_s < YOUNG_S else _Track(now, firsts)

    def _read(self, jobs: Sequence[Job]) -> tuple[float, dict[str, Usage], Mapping[int, GpuUsage]]:
        # In the thread that reads: on a busy machine the loop may go on much later, and cores would be wrong.
        read_at = time.monotonic()
        usages: dict[str, Usage] = {}
        for runtime in {job.runtime for job in jobs}:
            usages |= runtime.usage([job.folder for job in jobs if job.runtime is runtime])
        return read_at, usages, self._read_gpus() if any(job.order.gpus for job in jobs) else {}

    def _point(
        self, job: Job, usages: Mapping[str, Usage], gpus: Mapping[int, GpuUsage], read_at: float, at: float
    ) -> Point | None:
        """What is told of a job now; None where nothing is known of it."""
        track, usage = self._tracks[job.order.job_id], usages.get(job.order.job_id, Usage(None, None))
        cores = track.cores(usage.cpu_s, read_at)
        track.plan(read_at, self._begin)
        cards = tuple(_gpu_point(gpus.get(index)) for index in job.order.gpus)
        if usage.memory_mib is None and cores is None and not any(index in gpus for index in job.order.gpus):
            return None
        return Point(at, cores, None if usage.memory_mib is None else round(usage.memory_mib, 2), cards)


def _gpu_point(usage: GpuUsage | None) -> GpuPoint:
    return GpuPoint(None, None) if usage is None else GpuPoint(usage.utilization_percent, usage.memory_used_mib)
