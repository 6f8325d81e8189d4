"""The jobs of this host: a small state machine for each, whose memory is the job's folder."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import TypeAlias

from dstack.agent.admission import accept, let_in, note_alone
from dstack.agent.endings import ending_of, why_lost
from dstack.agent.fetching import work_of
from dstack.agent.forgotten import Forgotten, Trash
from dstack.agent.keeping import JobLog, Keeping
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder, write_json
from dstack.agent.records import Ending, find_order, has_rebooted, read_alone, read_ending
from dstack.agent.runtimes.base import Runtime
from dstack.errors import AgentRefused, IllegalMove
from dstack.kit.clock import Clock
from dstack.protocol.agent import LOG_STREAMS, JobOrder, JobReport, Layer

log = logging.getLogger(__name__)

PREPARING, RUNNING, ENDED = "preparing", "running", "ended"
MOVES = {PREPARING: (RUNNING, ENDED), RUNNING: (ENDED,), ENDED: ()}

PREPARE_AT_ONCE = 8
TELL_EVERY_S = 0.5
"""How often at most the progress of a pull is told, but for layers that are complete."""
SLOW_AFTER_S = 2.0
"""A preparation that takes longer is reported."""
SWEEP_EVERY = timedelta(hours=1)
CLEAN_UP_TIMEOUT_S = 20.0
LOOK_AGAIN_S = 1.0


FetchFiles: TypeAlias = Callable[[JobFolder, JobOrder], Awaitable[None]]
"""Puts all files of a job in place."""


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
    """What is still here of each stream."""
    acknowledged: set[str] = field(default_factory=set)
    """The streams that the server has to the last byte."""


class Jobs:
    """All jobs of this host."""

    def __init__(self, home: Home, runtimes: Runtimes, fetch_files: FetchFiles, keeping: Keeping, clock: Clock) -> None:
        self.on_change: Callable[[JobReport], None] = lambda report: None
        """Told about every report that differs from the one before."""
        self.on_run: Callable[[], None] = lambda: None
        """Told whenever a job runs that did not before, as far as this agent knows."""
        self.on_end: Callable[[str], None] = lambda job_id: None
        """Told about the end of every job, before that is reported."""
        self._home = home
        self._runtimes = runtimes
        self._fetch_files = fetch_files
        self._keeping = keeping
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._forgotten = Forgotten(home.forgotten)
        self._prepare_slots = asyncio.Semaphore(PREPARE_AT_ONCE)
        self._accepting = asyncio.Lock()
        """What is decided about one job holds still when the next is decided about."""
        self._leaving = False
        self._trash = Trash(home.trash)

    def reports(self) -> Iterable[JobReport]:
        """The whole truth about every job."""
        return [job.report for job in self._jobs.values()]

    def all(self) -> list[Job]:
        """Every job."""
        return list(self._jobs.values())

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(job_id)

    def recover(self) -> None:
        """Take over what an earlier agent left: told from the folders alone."""
        rebooted = has_rebooted(self._home)
        self._trash.empty()
        for path in self._home.jobs.iterdir():
            try:
                order = find_order(JobFolder(path))
                if order is None or path.name in self._forgotten:
                    # The server was not told that this one is accepted, or wants nothing of it any more.
                    self._trash.remove(path)
                    continue
                self._begin(JobFolder(path), order, has_rebooted=rebooted)
            except Exception:  # the other jobs need this agent
                log.exception("%s is not understood and left alone", path)

    async def keep_clean(self) -> None:
        """Remove what jobs left behind on this host, now and every hour, until cancelled."""
        while True:
            for runtime in (self._runtimes.process, self._runtimes.container):
                try:
                    await runtime.sweep(self.unfinished)
                except Exception:  # whatever it was, the next time may go well
                    log.exception("Files that jobs left behind are removed later")
            await self._clock.sleep(SWEEP_EVERY)

    def unfinished(self) -> set[str]:
        """The ids of all jobs that have not ended, also of those whose orders this agent does not understand."""
        ended = {id for id, job in self._jobs.items() if job.report.state == ENDED}
        return {path.name for path in self._home.jobs.iterdir()} - ended

    async def start(self, order: JobOrder) -> None:
        """Accept a job; it starts as soon as its files are there. Does nothing where it was accepted before.

        Raises:
            AgentRefused: the job was stopped or forgotten already, or this agent is leaving, or a GPU that was given
                to the job is still another's.
        """
        folder = self._home.job(order.job_id)
        async with self._accepting:
            if order.job_id in self._jobs:
                return
            if order.job_id in self._forgotten:
                raise AgentRefused(f"The job `{order.job_id}` was stopped or forgotten before it was started here")
            if self._leaving:
                raise AgentRefused("The agent is leaving this host")
            self._refuse_held(order.gpus)
            await asyncio.to_thread(accept, folder, order)
            note(folder, self._clock, f"accepted job {order.job_id} of run {order.run_name}")
            self._begin(folder, order)

    def _refuse_held(self, gpus: Collection[int]) -> None:
        """Whatever a server believes, a card is never two jobs' at once."""
        for job in self._jobs.values():
            held = set(gpus).intersection(job.order.gpus)
            if held and job.report.state != ENDED:
                raise AgentRefused(
                    f"The GPU number {min(held)} of the machine is still the job `{job.order.job_id}`'s, "
                    f"of the run `{job.order.run_name}`",
                    hint="Wait for its end, or stop it",
                )

    async def stop(self, job_id: str, grace_s: float) -> None:
        """Ask a job to end: SIGTERM, and SIGKILL after `grace_s` seconds. Returns at once.

        A job that is not known here will never start here.
        """
        folder = self._home.job(job_id)
        job = self._jobs.get(job_id)
        if job is None:
            self._forgotten.add(job_id)
        elif job.report.state != ENDED:
            wish = {"grace_s": max(0.0, float(grace_s))}
            await asyncio.to_thread(write_json, folder.stop, wish, durable=True)
            self._pass_on_stop(job)

    async def stop_all(self) -> None:
        """Stop every job, each with its own grace, and wait until all have ended. No other starts any more."""
        self._leaving = True
        for job in list(self._jobs.values()):
            await self.stop(job.order.job_id, job.order.stop_grace_s)
        for job in list(self._jobs.values()):
            await job.ended.wait()
        # What they leave outside their folders is removed after their end, and nobody comes after this agent.
        if lives := [job.life for job in self._jobs.values() if job.life is not None]:
            await asyncio.wait(lives, timeout=CLEAN_UP_TIMEOUT_S)

    async def forget(self, job_id: str) -> None:
        """Remove all there is of an ended job. One that is not known here will never start here.

        Raises:
            AgentRefused: it has not ended.
        """
        folder = self._home.job(job_id)
        job = self._jobs.get(job_id)
        if job is not None and job.report.state != ENDED:
            raise AgentRefused(f"The job `{job_id}` has not ended", hint="Stop it first")
        self._forgotten.add(job_id)
        if job is not None:
            del self._jobs[job_id]
            self._keeping.remove(job_id)
            self._trash.take(folder.root)

    async def authorize(self, job_id: str, key: str) -> None:
        """Let the holder of an ed25519 key into a job.

        Raises:
            AgentRefused: there is no such job, or this is no such key.
        """
        folder = self._home.job(job_id)
        job = self._jobs.get(job_id)
        if job is None or job.report.state == ENDED:
            raise AgentRefused(f"The job `{job_id}` does not run here")
        if (line := let_in(folder, key)) is not None:
            note(folder, self._clock, f"authorized the key {line.rpartition(' ')[2][-16:]}")

    def guests_changed(self, job_id: str, guests: int) -> None:
        """Somebody came into a job over SSH, or left it.

        Args:
            guests: how many are in now.
        """
        job = self._jobs.get(job_id)
        if job is None or job.report.state == ENDED:
            return
        note(job.folder, self._clock, f"{guests} connected by SSH")
        since = None if guests else self._clock.now().timestamp()
        self._report(job, guests=guests, alone_since=since)
        note_alone(job.folder, since)

    def followed(self, job: Job, stream: str) -> None:
        """The server wants a stream from some byte on, so it has not got it all."""
        job.acknowledged.discard(stream)
        if job.report.logged:
            self._report(job, logged=False)

    def acknowledged(self, job: Job, stream: str) -> None:
        """The server has every byte of one stream of an ended job."""
        job.acknowledged.add(stream)
        if job.acknowledged.issuperset(LOG_STREAMS) and not job.report.logged:
            self._report(job, logged=True, log_bytes=job.logs["job"].size())

    async def close(self) -> None:
        """Leave all jobs as they are; the next agent finds them."""
        lives = [job.life for job in self._jobs.values() if job.life is not None]
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        await self._trash.close()

    def _begin(self, folder: JobFolder, order: JobOrder, *, has_rebooted: bool = False) -> None:
        runtime = self._runtimes.of(order)
        report = JobReport(order.job_id, PREPARING)
        if was_started := runtime.was_started(folder):
            at = runtime.started_at(folder)
            place = runtime.working_dir(folder, order)
            alone_since = read_alone(folder, at, self._clock.now().timestamp())
            report = replace(report, state=RUNNING, started_at=at, working_dir=place, alone_since=alone_since)
        job = Job(folder, order, runtime, report)
        for stream in LOG_STREAMS:
            folder.log(stream).touch(mode=0o600)
        job.logs = {stream: JobLog(folder, stream) for stream in LOG_STREAMS}
        self._keeping.add(order.job_id, job.logs["job"])
        self._jobs[order.job_id] = job
        if (ending := read_ending(folder)) is not None:
            self._end(job, ending)
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
                started_at = self._clock.now().timestamp()
                await job.runtime.start(job.folder, job.order, started_at)
                self._report_start(job, started_at)
            self.on_run()
            if job.folder.stop.exists():
                # It came while the job was starting, or to an earlier agent.
                job.runtime.stop(job.folder)
            ending = await self._insist(job, lambda: job.runtime.wait(job.folder, job.order))
        except _Stopped:
            ending = Ending("stopped", self._clock.now().timestamp())
        except _Lost:
            ending = Ending("supervisor_lost", self._clock.now().timestamp(), message=lost)
        except Exception as error:  # noqa: BLE001 - logged there: the other jobs go on, and this one must not hang
            ending = await asyncio.to_thread(ending_of, job.folder, error, self._clock.now().timestamp())
        job.is_over = True
        settled = await self._insist(job, lambda: job.runtime.settle(job.folder, ending))
        ending = ending if lost else settled
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
        """Fetch what the job needs, unless somebody stops it meanwhile."""
        if job.folder.stop.exists():
            raise _Stopped
        job.preparing = asyncio.create_task(self._fetch(job), name=f"what {job.order.job_id} needs")
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW_AFTER_S, lambda: self._report(job, message=work_of(job.order)))
        try:
            await job.preparing
        except asyncio.CancelledError:
            if job.folder.stop.exists():
                raise _Stopped from None
            raise
        finally:
            slow.cancel()
            job.preparing = None

    async def _fetch(self, job: Job) -> None:
        async with self._prepare_slots:
            await self._fetch_files(job.folder, job.order)
        latest: tuple[Layer, ...] = ()

        def tell(layers: tuple[Layer, ...]) -> None:
            nonlocal latest
            latest, told = layers, job.report.layers
            if not told or sum(layer.ready for layer in layers) != sum(layer.ready for layer in told):
                self._report(job, layers=layers)

        async def keep_telling() -> None:
            while True:
                if latest != job.report.layers:
                    self._report(job, layers=latest)
                await asyncio.sleep(TELL_EVERY_S)

        telling = asyncio.create_task(keep_telling(), name=f"reports the image pull of {job.order.job_id}")
        try:
            await job.runtime.prepare(job.folder, job.order, tell)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    def _pass_on_stop(self, job: Job) -> None:
        if job.preparing is not None:
            job.preparing.cancel()
        elif job.report.state == RUNNING and not job.is_over:
            job.runtime.stop(job.folder)

    def _end(self, job: Job, ending: Ending) -> None:
        log_bytes = job.logs["job"].size()
        self._report(job, state=ENDED, log_bytes=log_bytes, layers=(), guests=0, alone_since=None, **asdict(ending))
        job.ended.set()

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
