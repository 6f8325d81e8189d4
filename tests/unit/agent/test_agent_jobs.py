"""What an agent finds in its folders when it starts."""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from dstack.agent.jobs import Jobs
from dstack.agent.keeping import Bounds, Keeping
from dstack.agent.lives import Runtimes
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder, write_json
from dstack.agent.preparing import FetchFiles
from dstack.agent.records import Ending
from dstack.agent.runtimes.base import Runtime
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import LOG_STREAMS, JobOrder, JobReport, to_json
from tests.making import HandClock


class NoRuntime:
    """Nothing may be started."""


class Started:
    """A runtime that has started all jobs at 100 s, which go on."""

    def was_started(self, folder: JobFolder) -> bool:
        return True

    def started_at(self, folder: JobFolder) -> float:
        return 100.0

    def working_dir(self, folder: JobFolder, order: JobOrder) -> str:
        return "/workflow"

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        await asyncio.Event().wait()
        raise AssertionError


def folders(root: Path) -> Home:
    home = Home(root)
    for folder in (home.jobs, home.forgotten, home.trash):
        folder.mkdir(exist_ok=True)
    return home


class Agents:
    """One agent after the other in the same folder, with one job."""

    def __init__(self, root: Path) -> None:
        self.clock = HandClock()
        self.home = folders(root)
        self.folder = self.home.job("0-job")
        self.folder.root.mkdir()
        for stream in LOG_STREAMS:
            self.folder.log(stream).touch()
        write_json(self.folder.order, to_json(JobOrder("0-job", "hello", "true")))

    @asynccontextmanager
    async def next(self, made: Started | None = None) -> AsyncIterator[Jobs]:
        runtime = cast(Runtime, made or Started())
        keeping = Keeping(self.home.jobs, Bounds(1 << 30))
        jobs = Jobs(self.home, Runtimes(runtime, runtime), cast(FetchFiles, None), keeping, self.clock)
        jobs.recover()
        yield jobs
        await jobs.close()

    def now(self) -> float:
        """One second later than the last time."""
        self.clock.time += timedelta(seconds=1)
        return self.clock.time.timestamp()


def told(jobs: Jobs) -> tuple[int, float | None]:
    """How many are in the job, and since when nobody is."""
    (report,) = jobs.reports()
    return report.guests, report.alone_since


async def test_a_job_is_alone_from_its_start_and_from_the_last_guests_leaving(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    async with agents.next() as jobs:
        assert told(jobs) == (0, 100.0)
        jobs.guests_changed("0-job", 1)
        jobs.guests_changed("0-job", 2)
        assert told(jobs) == (2, None)
        jobs.guests_changed("0-job", 1)
        assert told(jobs) == (1, None)
        left_at = agents.now()
        jobs.guests_changed("0-job", 0)
        assert told(jobs) == (0, left_at)


async def test_since_when_a_job_is_alone_outlives_the_agent(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    async with agents.next() as jobs:
        agents.folder.entered.touch()
        jobs.guests_changed("0-job", 1)
        left_at = agents.now()
        jobs.guests_changed("0-job", 0)
    agents.now()
    async with agents.next() as jobs:
        assert told(jobs) == (0, left_at)
        jobs.guests_changed("0-job", 1)
    back_at = agents.now()
    async with agents.next() as jobs:
        assert told(jobs) == (0, back_at), "who was in was thrown out only now"


def test_a_job_that_was_forgotten_before_its_start_was_confirmed_is_not_started_by_the_next_agent(
    tmp_path: Path,
) -> None:
    home = folders(tmp_path)
    left = home.job("0-job")
    left.root.mkdir()
    write_json(left.order, to_json(JobOrder("0-job", "hello", "true")))
    (home.forgotten / "0-job").touch()
    jobs = Jobs(home, cast(Runtimes, NoRuntime()), cast(FetchFiles, None), Keeping(home.jobs, Bounds(1)), SystemClock())
    jobs.recover()
    assert list(jobs.reports()) == []
    assert not left.root.exists()


class Settling(Started):
    """A runtime whose job has ended; its end is written down when the test says so, and not at once."""

    def __init__(self) -> None:
        self.tried_again, self.may_settle = asyncio.Event(), asyncio.Event()
        self.tries = self.stops = 0

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        return Ending("exited", 101.0, 0)

    async def settle(self, folder: JobFolder, ending: Ending) -> Ending:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        self.tried_again.set()
        await self.may_settle.wait()
        return ending

    def stop(self, folder: JobFolder) -> None:
        self.stops += 1

    @contextmanager
    def holding_output(self, folder: JobFolder, *, is_new: bool) -> Iterator[None]:
        yield

    async def clean_up(self, folder: JobFolder) -> None:
        pass


async def test_end_that_cannot_be_written_down_is_tried_again_and_is_stopped_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack.agent.lives.LOOK_AGAIN_S", 0.0)
    runtime = Settling()
    async with Agents(tmp_path).next(runtime) as jobs:
        await runtime.tried_again.wait()
        await jobs.stop("0-job", 0)
        assert runtime.stops == 0
        runtime.may_settle.set()
        (job,) = jobs.all()
        await job.ended.wait()
        assert job.report.end == "exited"


def test_line_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "0-job")
    folder.log("agent").mkdir(parents=True)
    note(folder, SystemClock(), "something")


class Slow(Started):
    """A runtime that prepares a job for as long as a test wants."""

    def __init__(self) -> None:
        self.is_ready = asyncio.Event()

    def was_started(self, folder: JobFolder) -> bool:
        return False

    @contextmanager
    def holding_output(self, folder: JobFolder, *, is_new: bool) -> Iterator[None]:
        yield

    async def prepare(self, folder: JobFolder, order: JobOrder, tell: object) -> None:
        await self.is_ready.wait()

    async def start(self, folder: JobFolder, order: JobOrder, started_at: float) -> None:
        pass


async def test_slow_preparation_is_reported_until_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch_nothing(folder: JobFolder, order: JobOrder) -> None:
        pass

    monkeypatch.setattr("dstack.agent.preparing.SLOW_AFTER_S", 0.0)
    agents = Agents(tmp_path)
    write_json(agents.folder.order, to_json(JobOrder("0-job", "hello", "true", python="3.12")))
    runtime = Slow()
    jobs = Jobs(
        agents.home,
        Runtimes(cast(Runtime, runtime), cast(Runtime, runtime)),
        fetch_nothing,
        Keeping(agents.home.jobs, Bounds(1 << 30)),
        agents.clock,
    )
    reports: list[tuple[str, str]] = []
    has_news = asyncio.Event()

    def hear(report: JobReport) -> None:
        reports.append((report.state, report.message))
        has_news.set()

    jobs.on_change = hear
    jobs.recover()
    preparing = ("preparing", "making an environment with Python 3.12")
    for wanted in (preparing, ("running", "")):
        while reports[-1:] != [wanted]:
            has_news.clear()
            await has_news.wait()
        runtime.is_ready.set()
    await jobs.close()
