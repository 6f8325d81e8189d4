"""What jobs used: packed, stored, read, and forgotten in time."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from dstack.protocol.agent import GpuPoint, Point
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.store import commits, metrics
from dstack.store.db import Database
from dstack.store.metrics import merged, unpacked
from dstack.store.pruning import prune_metrics
from dstack.store.tables import metrics as table
from dstack.store.tx import Tx
from tests.making import NOW, job, run

T = NOW.timestamp()
MINUTE = 60.0


def point(at: float, cpu: float | None = 0.5, *cards: GpuPoint) -> Point:
    return Point(at, cpu, 100.25, cards)


def every_ten_seconds(begin: float, end: float) -> list[Point]:
    return [point(begin + number * 10) for number in range(int((end - begin) / 10))]


async def rows(db: Database) -> int:
    count: int = await db.read(lambda tx: tx.select(select(func.count()).select_from(table)).scalar_one())
    return count


async def put(db: Database, points: Iterable[Point], job_id: str = "0-job", keep: timedelta = metrics.KEEP) -> None:
    given = {job_id: list(points)}
    await db.write(lambda tx: metrics.add(tx, given, {job_id: keep}))


async def get(db: Database, job_id: str = "0-job", **back: timedelta) -> list[Point]:
    return await db.read(lambda tx: metrics.read(tx, job_id, **back))


@pytest.fixture(autouse=True)
async def _jobs(db: Database) -> None:
    over = job(id="0-over", run_id="1-run", version=0, status=JobStatus.DONE, finished_at=NOW)

    def born(tx: Tx) -> None:
        commits.add_run(tx, run(), [job(version=0), job(id="0-other", node=1, version=0)], actor="user ada")
        done = run(id="1-run", name="done", status=RunStatus.DONE, finished_at=NOW)
        commits.add_run(tx, done, [over], actor="user ada")

    await db.write(born)


@pytest.mark.parametrize(
    "points",
    [
        [point(T), point(T + 10.123, 63.999), point(T + 599.999, None)],
        [Point(T, None, None)],
        [point(T, 0.5, GpuPoint(97.5, 40_960.0), GpuPoint(None, 12.0)), point(T + 1, 1.0, *[GpuPoint(None, None)] * 2)],
    ],
    ids=["numbers", "nothing is known", "cards"],
)
def test_what_is_packed_is_what_is_unpacked(points: list[Point]) -> None:
    assert unpacked(merged(None, points, T), T) == points
    one_by_one = None
    for one in points:
        one_by_one = merged(one_by_one, [one], T)
    assert one_by_one == merged(None, points, T)


def test_an_hour_of_a_job_is_small() -> None:
    six_points = every_ten_seconds(T, T + MINUTE)
    assert len(merged(None, six_points, T)) == 1 + 6 * 12
    with_cards = [Point(one.at, 1.0, 1.0, (GpuPoint(1.0, 1.0),) * 8) for one in six_points]
    assert len(merged(None, with_cards, T)) == 1 + 6 * (12 + 8 * 8)


def test_points_that_come_twice_late_or_out_of_order_are_there_once_and_in_order() -> None:
    points = every_ten_seconds(T, T + 5 * MINUTE)
    packed = merged(None, points[3:7], T)
    for some in (points[5:9], points[:4], [points[8], points[7]], points):
        packed = merged(packed, some, T)
    assert unpacked(packed, T) == points


def test_a_row_has_room_for_so_many_points_and_no_more_whatever_comes() -> None:
    many = [point(T + number / 10) for number in range(3000)]
    assert unpacked(merged(None, many, T), T) == many[: metrics.POINTS_MAX]


def test_points_with_other_cards_than_the_first_are_left_out() -> None:
    first, second = point(T, 0.5, GpuPoint(1.0, 2.0)), point(T + 1)
    assert unpacked(merged(merged(None, [first], T), [second], T), T) == [first]


async def test_points_are_read_as_they_came_each_job_by_itself(db: Database) -> None:
    mine, others = every_ten_seconds(T - 25 * MINUTE, T), [point(T, 3.0)]
    for start in range(0, len(mine), 7):
        await put(db, mine[start : start + 7])
        await put(db, others, "0-other")
    assert await get(db) == mine
    assert await get(db, "0-other") == others
    assert await get(db, "0-over") == []


async def test_of_a_job_that_goes_on_the_last_hour_is_kept(db: Database) -> None:
    points = every_ten_seconds(T, T + 5 * 60 * MINUTE)
    for start in range(0, len(points), 30):
        await put(db, points[start : start + 30])
        assert await rows(db) <= 7
    assert await get(db) == points[-361:]
    assert await get(db, back=timedelta(minutes=1)) == points[-7:]


async def test_more_is_kept_of_a_job_that_needs_it(db: Database) -> None:
    points = every_ten_seconds(T, T + 3 * 60 * MINUTE)
    for start in range(0, len(points), 60):
        await put(db, points[start : start + 60], keep=timedelta(hours=2))
    assert await get(db, back=timedelta(hours=2)) == points[-721:]


async def test_of_jobs_that_ended_long_ago_all_is_forgotten(db: Database) -> None:
    for id in ("0-job", "0-over"):
        await put(db, every_ten_seconds(T, T + 30 * MINUTE), id)
    assert await db.write(lambda tx: prune_metrics(tx, NOW)) == 0
    assert await db.write(lambda tx: prune_metrics(tx, NOW + timedelta(seconds=1))) == 3
    assert await get(db, "0-over") == [] and await get(db) != []


async def test_a_deleted_run_takes_its_metrics_along(db: Database) -> None:
    await put(db, [point(T)], "0-over")
    await db.write(lambda tx: commits.delete_run(tx, "1-run"))
    assert await rows(db) == 0


async def test_time_is_the_hosts_own(db: Database) -> None:
    """A host's clock may be years off: its points come and are seen all the same."""
    long_ago = datetime(1970, 1, 1, 5, tzinfo=UTC).timestamp()
    points = every_ten_seconds(long_ago, long_ago + 15 * MINUTE)
    await put(db, points)
    assert await get(db) == points
