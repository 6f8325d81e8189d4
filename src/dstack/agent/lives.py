"""The lives of this host's jobs: a small state machine for each, whose memory is the job's folder."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from dstack.agent.endings import ending_of, why_lost
from dstack.agent.keeping import JobLog, Keeping
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder, write_json
from dstack.agent.preparing import FetchFiles, Preparations
from dstack.agent.records import Ending, read_alone, read_ending
from dstack.agent.runtimes.base import Runtime
from dstack.agent.serving.given import give_port, recovered, with_failure
from dstack.agent.serving.replicas import Replica
from dstack.errors import IllegalMove
from dstack.kit.clock import Clock
from dstack.protocol.agent import LOG_STREAMS, JobOrder, JobReport

log = logging.getLogger(__name__)

PREPARING, RUNNING, ENDED = "preparing", "running", "ended"
MOVES = {PREPARING: (RUNNING, ENDED), RUNNING: (ENDED,), ENDED: ()}

CLEAN_UP_TIMEOUT_S = 20.0
LOOK_AGAIN_S = 1.0
_NOT_READY = {"ready": None, "unready_reason": ""}


@dataclass(frozen=True, slots=True)
class Runtimes:
    """The ways in which this host can run jobs."""

    process: Runtime
    container: Runtime

    def of(self, order: JobOrder) -> Runtime:
        """The one that an order asks for."""
        return self.process if order.container is None else self.container


@dataclass(slots=True, eq=False)
class Job:
    """One job, as this agent knows it."""

    folder: JobFolder
    order: JobOrder
    runtime: Runtime
    report: JobReport
    is_over: bool = False
    """Whether its runtime has no part of it to stop any more. Its end is still to be written down and reported."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once nothing will be added to the job's logs any more."""
    preparing: asyncio.Task[None] | None = None
    life: asyncio.Task[None] | None = None
    logs: dict[str, JobLog] = field(default_factory=dict)
    """The part of each stream that is still here."""
    acknowledged: set[str] = field(default_factory=set)
    """The streams that the server has to the last byte."""

    @property
    def holds_port(self) -> bool:
        """Return whether its port is one of the host's, and may still be in use."""
        shares_host = self.order.container is None or self.order.container.host_network
        return shares_host and self.report.state != ENDED


class Lives:
    """All jobs of this host, each on its way from its preparation to its end."""

    def __init__(self, home: Home, runtimes: Runtimes, fetch_files: FetchFiles, keeping: Keeping, clock: Clock) -> None:
        self.on_change: Callable[[JobReport], None] = lambda report: None
        """Called with every report that differs from the one before."""
        self.on_run: Callable[[], None] = lambda: None
        """Called whenever a job runs that did not before, as far as this agent knows."""
        self.on_end: Callable[[str], None] = lambda job_id: None
        """Called at the end of every job, before that is reported."""
        self._home = home
        self._runtimes = runtimes
        self._preparations = Preparations(fetch_files)
        self._keeping = keeping
        self._clock = clock
        self._jobs: dict[str, Job] = {}

    def _begin(self, folder: JobFolder, order: JobOrder, *, has_rebooted: bool = False) -> None:
        runtime = self._runtimes.of(order)
        report = JobReport(order.job_id, PREPARING)
        if was_started := runtime.was_started(folder):
            at = runtime.started_at(folder)
            place = runtime.working_dir(folder, order)
            alone_since = read_alone(folder, at, self._clock.now().timestamp())
            report = replace(report, state=RUNNING, started_at=at, working_dir=place, alone_since=alone_since)
            if order.service is not None:
                known = recovered(folder, order, order.service)
                report = replace(report, port=known.port, ready=known.is_ready, address=known.address)
        job = Job(folder, order, runtime, report)
        for stream in LOG_STREAMS:
            folder.log(stream).touch(mode=0o600)
        job.logs = {stream: JobLog(folder, stream) for stream in LOG_STREAMS}
        self._keeping.add(order.job_id, job.logs["job"])
        self._jobs[order.job_id] = job
        if (ending := read_ending(folder)) is not None:
            self._end(job, with_failure(folder, ending))
            job.life = asyncio.create_task(runtime.clean_up(folder), name=f"what {order.job_id} left")
            return
        self.on_change(job.report)
        lost = why_lost(folder, order, was_started=was_started, has_rebooted=has_rebooted)
        job.life = asyncio.create_task(self._live(job, lost), name=f"job {order.job_id}")

    def _report_start(self, job: Job, started_at: float) -> None:
        place = job.runtime.working_dir(job.folder, job.order)
        alone_since = None if job.report.guests else started_at
        self._report(
            job, state=RUNNING, started_at=started_at, working_dir=place, alone_since=alone_since, layers=(), message=""
        )

    async def _live(self, job: Job, lost: str) -> None:
        with job.runtime.holding_output(job.folder, is_new=job.report.state == PREPARING):
            await self._see_to_its_end(job, lost)

    async def _see_to_its_end(self, job: Job, lost: str) -> None:
        """Args: `lost`: why the job cannot go on, where it cannot."""
        try:
            if lost:
                raise _Lost
            if job.report.state == PREPARING:
                await self._prepare(job)
                await self._give_port(job)
                started_at = self._clock.now().timestamp()
                await job.runtime.start(job.folder, job.order, started_at)
                self._report_start(job, started_at)
            self.on_run()
            if job.folder.stop.exists():
                # It came while the job was starting, or to an earlier agent.
                job.runtime.stop(job.folder)
            ending = await self._wait(job)
        except _Stopped:
            ending = Ending("stopped", self._clock.now().timestamp())
        except _Lost:
            ending = Ending("supervisor_lost", self._clock.now().timestamp(), message=lost)
        except Exception as error:  # noqa: BLE001 - logged there: the other jobs go on, and this one must not hang
            ending = await asyncio.to_thread(ending_of, job.folder, error, self._clock.now().timestamp())
        job.is_over = True
        settled = await self._insist(job, lambda: job.runtime.settle(job.folder, ending))
        ending = ending if lost else with_failure(job.folder, settled)
        note(job.folder, self._clock, f"the end: {ending.end}{ending.message and ': ' + ending.message}")
        self.on_end(job.order.job_id)
        cleaning = asyncio.create_task(job.runtime.clean_up(job.folder), name=f"what {job.order.job_id} left")
        # Its cards are others' only once nothing of it is left; a slow engine must not hide the end for long.
        await asyncio.wait([cleaning], timeout=CLEAN_UP_TIMEOUT_S)
        self._end(job, ending)
        await cleaning

    async def _insist(self, job: Job, work: Callable[[], Awaitable[Ending]]) -> Ending:
        """Do something without which no job ends, again and again until it is done."""
        while True:
            try:
                return await work()
            except OSError as error:  # a want of the agent's, of descriptors for example: the job goes on
                log.warning("Job %s is looked after again: %s", job.order.job_id, error)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _prepare(self, job: Job) -> None:
        """Fetch what the job needs, unless it is stopped meanwhile."""
        if job.folder.stop.exists():
            raise _Stopped
        preparing = self._preparations.run(job.folder, job.order, job.runtime, partial(self._report, job))
        job.preparing = asyncio.create_task(preparing, name=f"what {job.order.job_id} needs")
        try:
            await job.preparing
        except asyncio.CancelledError:
            if job.folder.stop.exists():
                raise _Stopped from None
            raise
        finally:
            job.preparing = None

    async def _give_port(self, job: Job) -> None:
        """Give a replica of a service its port before it starts; no other one may get it meanwhile.

        Raises:
            HostTrouble: no port is free.
        """
        if job.order.service is not None:
            others = (one.report.port for one in self._jobs.values() if one is not job and one.holds_port)
            known = give_port(job.folder, job.order, job.order.service, {port for port in others if port is not None})
            job.report = replace(job.report, port=known.port, ready=known.is_ready)

    async def _wait(self, job: Job) -> Ending:
        def wait() -> Awaitable[Ending]:
            return self._insist(job, lambda: job.runtime.wait(job.folder, job.order))

        if (serving := job.order.service) is None:
            return await wait()
        replica = Replica(job.folder, job.order, serving, job.runtime, recovered(job.folder, job.order, serving))

        async def end(failure: str) -> None:
            note(job.folder, self._clock, f"the replica failed: {failure}")
            await self._ask_to_stop(job, job.order.stop_grace_s)

        return await replica.beside(wait, partial(self._report_news, job), end)

    async def _ask_to_stop(self, job: Job, grace_s: float) -> None:
        """Put on record that a job is to end, and pass it on."""
        await asyncio.to_thread(write_json, job.folder.stop, {"grace_s": max(0.0, float(grace_s))}, durable=True)
        self._pass_on_stop(job)

    def _pass_on_stop(self, job: Job) -> None:
        if job.preparing is not None:
            job.preparing.cancel()
        elif job.report.state == RUNNING and not job.is_over:
            job.runtime.stop(job.folder)

    def _end(self, job: Job, ending: Ending) -> None:
        log_bytes = job.logs["job"].size()
        self._report(
            job, state=ENDED, log_bytes=log_bytes, layers=(), guests=0, alone_since=None, **_NOT_READY, **asdict(ending)
        )
        job.ended.set()

    def _report_news(self, job: Job, **changes: object) -> None:
        if any(getattr(job.report, name) != value for name, value in changes.items()):
            self._report(job, **changes)

    def _report(self, job: Job, **changes: object) -> None:
        report = replace(job.report, **changes)  # type: ignore[arg-type]
        if report.state != job.report.state and report.state not in MOVES[job.report.state]:
            raise IllegalMove(f"A job cannot move from `{job.report.state}` to `{report.state}`")
        job.report = report
        self.on_change(report)


class _Stopped(Exception):
    """The job was stopped before it was started."""


class _Lost(Exception):
    """The job cannot go on."""
