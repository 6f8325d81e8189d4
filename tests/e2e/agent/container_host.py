"""The container jobs of one host, inside the test's own process: what takes minutes elsewhere can be quick here."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dstack.agent.containers.api import ContainerEngine, EngineRefused
from dstack.agent.containers.images import PULL_STALL_S
from dstack.agent.containers.making import Maker
from dstack.agent.containers.store import ImageStore
from dstack.agent.containers.watching import AWAY_MAX_S, SILENCE_MAX_S
from dstack.agent.disks import Disk
from dstack.agent.fetching import fetch_files
from dstack.agent.files import BlobCache
from dstack.agent.gpus.cards import Cards
from dstack.agent.jobs import Jobs
from dstack.agent.keeping import Bounds, Keeping
from dstack.agent.lives import Runtimes
from dstack.agent.paths import Home, JobFolder
from dstack.agent.records import read_order
from dstack.agent.runtimes.container import ContainerRuntime
from dstack.agent.signals import SIGNALS
from dstack.agent.supervisor import supervise
from dstack.kit.clock import Clock, SystemClock
from dstack.protocol.agent import Container, JobOrder, JobReport
from tests.e2e.home import wait_for
from tests.engines import SHELL_IMAGE
from tests.patience import PATIENCE_S

ROOMY = Disk(10**12, 10**12)


async def spawn(folder: JobFolder, started_at: float) -> None:
    """Fork a carrier, as the spawner of an agent does. It must not need to read a program: the user may be anybody."""
    if (pid := os.fork()) == 0:
        try:
            os.closerange(3, 1 << 16)
            for descriptor in range(3):
                os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            if os.fork() == 0:
                os.setsid()
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
                order = read_order(folder)
                assert order is not None
                supervise(folder, order, started_at)
        finally:
            os._exit(0)
    await asyncio.to_thread(os.waitpid, pid, 0)


class FailingEngine(ContainerEngine):
    """An engine that fails some calls before they go well."""

    def __init__(self, socket: Path, failures: Mapping[str, int], reason: str = "context canceled") -> None:
        """Args: `failures`: of calls about containers, by the ends of their paths: how often each fails."""
        super().__init__((str(socket),))
        self._failures = dict(failures)
        self._reason = reason

    def is_well(self) -> bool:
        """Whether it fails no more."""
        return not any(self._failures.values())

    async def call(self, method: str, path: str, *args: Any, **options: Any) -> Any:
        """Fail, or do it."""
        for end, left in self._failures.items():
            if left and path.startswith("/containers/") and path.endswith(end):
                self._failures[end] -= 1
                raise EngineRefused(500, self._reason)
        return await super().call(method, path, *args, **options)


class ContainerHost:
    """Jobs in containers of one engine."""

    def __init__(
        self,
        path: Path,
        socket: Path,
        *,
        clock: Clock | None = None,
        stall_s: float = PULL_STALL_S,
        away_max_s: float = AWAY_MAX_S,
        silence_max_s: float = SILENCE_MAX_S,
        engine: ContainerEngine | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.home = Home(path)
        for folder in (self.home.root, self.home.jobs, self.home.forgotten, self.home.trash, self.home.blobs):
            folder.mkdir(exist_ok=True)
        self.disk: Disk | None = ROOMY
        """How full the engine's disk shall seem to be."""
        engine = engine or ContainerEngine((str(socket),))
        self.images = ImageStore(self.home.images, engine, clock, stall_s=stall_s, measure=lambda folder: self.disk)
        maker = Maker(self.home, engine, lambda: Cards(()))
        self.runtime = ContainerRuntime(engine, clock, maker, self.images, spawn, away_max_s, silence_max_s)
        fetch = partial(fetch_files, BlobCache(self.home.blobs, _no_blob), clock)
        keeping = Keeping(self.home.jobs, Bounds(1 << 30))
        self.jobs = Jobs(self.home, Runtimes(self.runtime, self.runtime), fetch, keeping, clock)
        self._number = 0

    async def start(self, image: str = SHELL_IMAGE, script: str = "true", **container: object) -> str:
        """Start a job, and return its id at once."""
        self._number += 1
        order = JobOrder(f"job-{self._number}", "run", script, container=Container(image, **container))  # type: ignore[arg-type]
        await self.jobs.start(order)
        return order.job_id

    async def run(self, image: str = SHELL_IMAGE, script: str = "true", **container: object) -> tuple[JobReport, str]:
        """Run a job to its end, and until nothing of it is left; returns its last report and what it printed."""
        job_id = await self.start(image, script, **container)
        return await self.end_of(job_id), self.home.job(job_id).log("job").read_text()

    async def end_of(self, job_id: str) -> JobReport:
        """Wait for a job's end, and until nothing of it is left."""
        job = self.jobs.find(job_id)
        assert job is not None and job.life is not None
        await asyncio.wait_for(asyncio.shield(job.life), PATIENCE_S)
        return job.report

    def report(self, job_id: str) -> JobReport:
        """The truth about a job."""
        job = self.jobs.find(job_id)
        assert job is not None
        return job.report

    def notes(self, job_id: str) -> str:
        """What the agent has to say about a job."""
        return self.home.job(job_id).log("agent").read_text()


async def _no_blob(blob_hash: str) -> bytes | None:
    return None


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    await asyncio.to_thread(wait_for, "what the test waits for", condition, PATIENCE_S)
