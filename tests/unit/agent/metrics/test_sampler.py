"""When points are taken, and what is in them."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from dstack.agent.gpus.usage import GpuUsage
from dstack.agent.jobs import Jobs
from dstack.agent.lives import Job
from dstack.agent.metrics import sampler
from dstack.agent.metrics.sampler import Sampler
from dstack.agent.metrics.usage import Usage
from dstack.agent.paths import JobFolder
from dstack.agent.runtimes.base import Runtime
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import GpuPoint, JobOrder, JobReport, Point
from tests.patience import PATIENCE_S

CARDS = {0: GpuUsage(10.0, 100), 2: GpuUsage(30.0, None), 3: GpuUsage(40.0, 400)}


class Moments(threading.local):
    """The time, as each thread has last asked for it."""

    last = 0.0

    def monotonic(self) -> float:
        self.last = time.monotonic()
        return self.last


MOMENTS = Moments()


class Burner:
    """A runtime whose jobs keep two cores busy, however long the machine takes to look."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.read: list[list[str]] = []
        self.failures = 0

    def usage(self, folders: Sequence[JobFolder]) -> dict[str, Usage]:
        self.read.append([folder.job_id for folder in folders])
        if self.failures:
            self.failures -= 1
            raise ValueError("the disk is odd")
        return {folder.job_id: Usage(2 * (MOMENTS.last - self.begin), 64.125) for folder in folders}


class Here:
    """The jobs of a host."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.burner = Burner()

    def add(self, job_id: str, age_s: float = 0.0, **order: Any) -> Job:
        started_at = SystemClock().now().timestamp() - age_s
        report = JobReport(job_id, "running", started_at=started_at)
        runtime = cast(Runtime, self.burner)
        job = Job(JobFolder(Path(job_id)), JobOrder(job_id, "hello", "true", **order), runtime, report)
        self.jobs[job_id] = job
        return job

    def all(self) -> list[Job]:
        return list(self.jobs.values())


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"EVERY_S": 0.2, "FIRST_S": (0.05, 0.1), "TOGETHER_S": 0.01}.items():
        monkeypatch.setattr(sampler, name, value)
    monkeypatch.setattr(sampler, "time", MOMENTS)
    yield


@pytest.fixture
def here() -> Here:
    return Here()


async def read(here: Here, enough: Callable[[dict[str, list[Point]]], object]) -> dict[str, list[Point]]:
    """What is read until it is enough."""
    news = asyncio.Event()
    one = Sampler(cast(Jobs, here), SystemClock(), lambda: CARDS)
    one.points.on_news = news.set
    reading = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not enough(one.points.later_than({}, 1000)):
                news.clear()
                await news.wait()
        return one.points.later_than({}, 1000)
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def test_a_job_that_has_just_begun_is_told_of_soon_with_the_cores_it_kept_busy(here: Here) -> None:
    here.add("a")
    first, second, third = (await read(here, lambda points: len(points.get("a", ())) > 2))["a"][:3]
    assert first.memory_mib == 64.12
    assert [round(cast(float, one.cpu_cores)) for one in (first, second, third)] == [2, 2, 2]


async def test_one_that_was_found_running_has_no_cores_until_it_is_read_again(here: Here) -> None:
    here.add("a", age_s=3600)
    here.burner.begin -= 3600
    first, second = (await read(here, lambda points: len(points.get("a", ())) > 1))["a"][:2]
    assert (first.cpu_cores, first.memory_mib) == (None, 64.12)
    assert round(cast(float, second.cpu_cores)) == 2


async def test_all_jobs_of_a_host_are_read_at_the_same_moments(here: Here) -> None:
    for number in range(20):
        here.add(f"job-{number}", age_s=number / 10)
    points = await read(here, lambda points: len(points) == 20 and all(len(some) > 4 for some in points.values()))
    assert len({some[-2].at for some in points.values()}) == 1
    assert here.burner.read[-1] == [f"job-{number}" for number in range(20)]


async def test_a_job_is_told_of_its_own_cards_in_their_order(here: Here) -> None:
    here.add("a", gpus=(3, 0))
    here.add("b", gpus=(1, 2))
    here.add("c")
    points = await read(here, lambda points: len(points) == 3)
    assert points["a"][0].gpus == (GpuPoint(40.0, 400), GpuPoint(10.0, 100))
    assert points["b"][0].gpus == (GpuPoint(None, None), GpuPoint(30.0, None))
    assert points["c"][0].gpus == ()


async def test_a_reading_that_fails_does_not_end_the_readings(here: Here) -> None:
    here.burner.failures = 2
    here.add("a")
    assert (await read(here, lambda points: "a" in points))["a"]


async def test_a_job_of_which_nothing_can_be_told_has_no_points(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.add("a")
    here.add("b", gpus=(0,))
    monkeypatch.setattr(Burner, "usage", lambda self, folders: {})
    points = await read(here, lambda points: len(points.get("b", ())) > 1)
    assert "a" not in points
    assert points["b"][0].cpu_cores is None and points["b"][0].gpus == (GpuPoint(10.0, 100),)
