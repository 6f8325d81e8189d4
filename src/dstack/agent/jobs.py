"""The jobs of this host, and all that is asked of them: starts, stops, keys, logs."""

import asyncio
import logging
from collections.abc import Collection, Iterable
from datetime import timedelta

from dstack.agent.admission import accept, let_in, note_alone
from dstack.agent.forgotten import Forgotten, Trash
from dstack.agent.keeping import Keeping
from dstack.agent.lives import CLEAN_UP_TIMEOUT_S, ENDED, Job, Lives, Runtimes
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder
from dstack.agent.preparing import FetchFiles
from dstack.agent.records import find_order, has_rebooted
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock
from dstack.protocol.agent import LOG_STREAMS, JobOrder, JobReport

log = logging.getLogger(__name__)

SWEEP_EVERY = timedelta(hours=1)


class Jobs(Lives):
    """All jobs of this host."""

    def __init__(self, home: Home, runtimes: Runtimes, fetch_files: FetchFiles, keeping: Keeping, clock: Clock) -> None:
        super().__init__(home, runtimes, fetch_files, keeping, clock)
        self._forgotten = Forgotten(home.forgotten)
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
        self._home.job(job_id)
        job = self._jobs.get(job_id)
        if job is None:
            self._forgotten.add(job_id)
        elif job.report.state != ENDED:
            await self._ask_to_stop(job, grace_s)

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
