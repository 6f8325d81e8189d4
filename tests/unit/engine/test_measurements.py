"""What becomes of points: they are stored together, and a run that they show to be idle ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.objects import Instance, Job, Next, Run
from dstack.engine import measurements
from dstack.engine.jobs.watching import watch
from dstack.engine.measurements import Measurements
from dstack.engine.runs.deriving import derive
from dstack.errors import DatabaseUnavailable
from dstack.protocol.agent import GpuPoint, Point
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from dstack.store import commits, metrics, objects
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.making import NOW, HandClock, instance, job_view, placed_job, run, run_view
from tests.patience import PATIENCE_S

T = NOW.timestamp()
POLICY = {"min_gpu_utilization": 10, "time_window": "5m"}
WHY = "no GPU was more than 3% busy for 5m; `utilization_policy` asks for 10%"


class Still(HandClock):
    """Sleeps take no time, and are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[timedelta] = []

    async def sleep(self, span: timedelta) -> None:
        self.slept.append(span)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Still:
    return Still()


@pytest.fixture
async def taking(db: Database, clock: Still) -> AsyncIterator[Measurements]:
    made = Measurements(db, clock)
    yield made
    await made.close()


def points(busy: float | None, begin: float = 0, end: float = 600, cards: int = 1) -> list[Point]:
    """One each ten seconds, in seconds from now on."""
    gpus = tuple(GpuPoint(busy, 100.0) for _ in range(cards))
    return [Point(T + at, 0.5, 100.0, gpus) for at in range(int(begin), int(end) + 1, 10)]


async def born(db: Database, *jobs: Job, policy: object = None, **of_instance: Any) -> None:
    spec = {"configuration": {"type": "task", "commands": ["true"], "utilization_policy": policy}}

    def write(tx: Tx) -> None:
        machine: Instance = instance(version=0, **of_instance)
        commits.commit(tx, Next((machine,)), lambda *_: None)
        commits.add_run(tx, run(status=RunStatus.RUNNING, spec=spec), list(jobs), actor="user ada")

    await db.write(write)


def running(**fields: Any) -> Job:
    return placed_job(**{"status": JobStatus.RUNNING, "version": 0} | fields)


async def stored(db: Database, job_id: str = "0-job") -> list[Point]:
    return await db.read(lambda tx: metrics.read(tx, job_id))


async def asked(db: Database, job_id: str = "0-job") -> tuple[JobReason | None, str]:
    found = await db.read(lambda tx: objects.find_job(tx, job_id))
    assert found is not None
    return found.stop_asked, found.detail


async def take(taking: Measurements, some: list[Point], job_id: str = "0-job", on: str = "0-instance") -> None:
    """Hand points over, and wait until they are stored."""
    taking.take(on, {job_id: some})
    await taking.close()


async def test_points_are_stored_and_those_that_come_twice_are_there_once(db: Database, taking: Measurements) -> None:
    await born(db, running())
    await take(taking, points(3.0, 0, 100))
    await take(taking, points(3.0, 50, 200))
    assert await stored(db) == points(3.0, 0, 200)


async def test_what_others_say_of_a_job_and_what_is_said_of_no_job_is_not_stored(
    db: Database, taking: Measurements
) -> None:
    await born(db, running())
    await take(taking, points(3.0), on="another-instance")
    await take(taking, points(3.0), job_id="nobody")
    assert await stored(db) == []


async def test_what_comes_meanwhile_is_stored_together(
    db: Database, taking: Measurements, clock: Still, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    write = db.write

    async def counted(function: Callable[[Tx], Any]) -> Any:
        nonlocal writes
        writes += 1
        return await write(function)

    monkeypatch.setattr(db, "write", counted)
    jobs = [running(id=f"job-{number}", node=number) for number in range(150)]
    await born(db, *jobs)
    writes = 0
    for at in (0, 10, 20):
        for one in jobs:
            taking.take("0-instance", {one.id: points(3.0, at, at)})
    await until(lambda: taking._count == 0)
    assert writes == 2 and clock.slept == [150 * measurements.PAUSE_PER_JOB]
    assert await stored(db, "job-149") == points(3.0, 0, 20)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - nobody tells when a point is stored
            await asyncio.sleep(0.001)


async def test_points_wait_for_a_database_that_is_away_and_are_in_order_then(
    db: Database, taking: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    await born(db, running())
    write, failures = db.write, 2

    async def away(function: Callable[[Tx], Any]) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            taking.take("0-instance", {"0-job": points(3.0, 110, 120)})
            raise DatabaseUnavailable("It is away")
        return await write(function)

    monkeypatch.setattr(db, "write", away)
    taking.take("0-instance", {"0-job": points(3.0, 0, 100)})
    await until(lambda: taking._count == 0)
    monkeypatch.undo()
    assert await stored(db) == points(3.0, 0, 120)


async def test_points_that_cannot_be_stored_take_no_room_for_ever(
    db: Database, taking: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "WAITING_MAX", 20)
    await born(db, running())

    async def broken(function: Callable[[Tx], Any]) -> Any:
        raise ValueError("It is not understood")

    with monkeypatch.context() as patch:
        patch.setattr(db, "write", broken)
        taking.take("0-instance", {"0-job": points(3.0, 0, 100)})
        await until(lambda: not taking._is_storing)
    await take(taking, points(3.0, 110, 290))
    assert await stored(db) == points(3.0, 110, 290)


async def test_no_more_wait_than_there_is_room_for(
    db: Database, taking: Measurements, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(measurements, "WAITING_MAX", 20)
    await born(db, running())
    with caplog.at_level(logging.WARNING):
        taking.take("0-instance", {"0-job": points(3.0, 0, 100)})
        taking.take("0-instance", {"0-job": points(3.0, 110, 300)})
    assert "are lost" in caplog.text
    await taking.close()
    assert await stored(db) == points(3.0, 0, 100)


async def test_a_run_whose_cards_are_idle_for_the_whole_window_ends_and_says_why(
    db: Database, taking: Measurements
) -> None:
    await born(db, running(), policy=POLICY)
    await take(taking, points(3.0, 0, 290))
    assert await asked(db) == (None, "")
    await take(taking, points(3.0, 300, 300))
    # It is looked at again once the rest of the window has passed, and not sooner.
    assert await asked(db) == (None, "")
    taking._clock.time += timedelta(seconds=10)  # type: ignore[attr-defined]
    await take(taking, points(3.0, 310, 310))
    assert await asked(db) == (JobReason.UTILIZATION, WHY)


def test_its_job_and_then_the_run_end_with_the_reason() -> None:
    wished = running(stop_asked=JobReason.UTILIZATION, detail=WHY, version=1)
    (ending,) = watch(job_view(wished, instance())).write
    assert isinstance(ending, Job)
    assert (ending.status, ending.reason, ending.detail) == (JobStatus.TERMINATING, JobReason.UTILIZATION, WHY)
    (over, *_) = derive(run_view(run(status=RunStatus.RUNNING), ending)).write
    assert isinstance(over, Run)
    assert (over.status, over.reason, over.detail) == (RunStatus.TERMINATING, JobReason.UTILIZATION, WHY)


@pytest.mark.parametrize(
    "policy, of_job, of_instance, some",
    [
        (None, {}, {}, points(3.0)),
        (POLICY, {}, {}, points(50.0)),
        (POLICY, {}, {}, points(None)),
        (POLICY, {}, {}, points(3.0, cards=0)),
        (POLICY, {}, {"unreachable_since": NOW}, points(3.0)),
        (POLICY, {"status": JobStatus.TERMINATING}, {}, points(3.0)),
        (POLICY, {"stop_asked": JobReason.STOPPED_BY_USER}, {}, points(3.0)),
    ],
    ids=[
        *("nobody asked for it", "its cards are busy", "they do not tell", "it has none"),
        *("its machine is away", "it ends already", "somebody has stopped it"),
    ],
)
async def test_others_go_on(
    db: Database,
    taking: Measurements,
    policy: object,
    of_job: dict[str, Any],
    of_instance: dict[str, Any],
    some: list[Point],
) -> None:
    one = running(**of_job)
    await born(db, one, policy=policy, **of_instance)
    await take(taking, some)
    assert await asked(db) == (one.stop_asked, "")
    assert await stored(db) == some


async def test_a_run_of_several_nodes_is_idle_when_all_of_them_are(
    db: Database, taking: Measurements, clock: Still
) -> None:
    first, second = running(), running(id="1-job", node=1, nodes=2)
    done = running(id="2-job", node=2, status=JobStatus.DONE, finished_at=NOW)
    await born(db, first, second, done, policy=POLICY)
    await take(taking, points(3.0))
    assert await asked(db) == (None, ""), "nothing is known of the other"
    await take(taking, points(50.0), "1-job")
    await take(taking, points(3.0, 610, 620))
    assert await asked(db) == (None, ""), "the other is busy"
    clock.time += timedelta(minutes=5)
    await take(taking, points(2.0, 610, 920), "1-job")
    await take(taking, points(3.0, 610, 920))
    assert await asked(db) == (JobReason.UTILIZATION, WHY)


async def test_a_run_is_not_judged_by_what_was_long_ago(db: Database, taking: Measurements, clock: Still) -> None:
    """An agent that was cut off tells first of when the cards were idle."""
    await born(db, running(), policy=POLICY)
    clock.time += timedelta(minutes=15)
    await take(taking, points(3.0, 0, 600))
    assert await asked(db) == (None, "")
    await take(taking, points(3.0, 610, 890))
    assert await asked(db) == (JobReason.UTILIZATION, WHY)


async def test_the_nodes_of_a_run_are_judged_by_the_same_time(db: Database, taking: Measurements) -> None:
    await born(db, running(), running(id="1-job", node=1, nodes=2), policy=POLICY)
    await take(taking, points(3.0, 0, 400))
    await take(taking, points(3.0, 0, 600), "1-job")
    assert await asked(db) == (None, ""), "what the first did last is not known yet"
    await take(taking, points(3.0, 410, 600))
    assert await asked(db) == (JobReason.UTILIZATION, WHY)
