"""The sums of services in the database: exact over every restart, and bounded."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from dstack.domain.autoscaling import Scale
from dstack.domain.load import Load
from dstack.domain.traffic import Sums, traffic_of
from dstack.store import commits, objects, tables, traffic
from dstack.store.db import Database
from dstack.store.traffic import EARLIER, KEEP, SOURCES_MAX, SPAN, packed, start_of, unpacked
from dstack.store.tx import Tx
from tests.making import NOW, job, run

T = NOW.timestamp()


async def served(db: Database) -> None:
    service = run(type="service", spec={"configuration": {"type": "service", "port": 80, "commands": ["x"]}})
    await db.write(lambda tx: commits.add_run(tx, service, [job(version=0)], actor="user ada"))


async def add(db: Database, sums: Sums, source: str = "a", run_id: str = "0-run") -> None:
    await db.write(lambda tx: traffic.add(tx, {(run_id, source): replace(sums, at=T + sums.at)}))


async def read(db: Database, at: float = 0.0, back: timedelta = timedelta(minutes=1)) -> list[list[Sums]]:
    since = datetime.fromtimestamp(T + at, UTC) - back
    found = await db.read(lambda tx: traffic.read(tx, ["0-run"], since))
    return found.get("0-run", [])


async def rows(db: Database) -> int:
    def count(tx: Tx) -> int:
        return int(tx.select(select(func.count()).select_from(tables.traffic)).scalar_one())

    return await db.read(count)


async def test_report_that_comes_again_counts_once(db: Database) -> None:
    await served(db)
    for sums in (Sums(1, 5, 1), Sums(2, 5, 1), Sums(3, 9, 1), Sums(3, 9, 1)):
        await add(db, sums)
    seen = traffic_of(await read(db, 3), T + 3)
    assert (seen.requests, seen.errors, seen.requests_per_s) == (9, 1, 9 / 60)
    assert len((await read(db, 3))[0]) == 2, "one point for ten seconds, and the sums before"


async def test_other_life_of_the_data_plane_adds_to_the_ones_before(db: Database) -> None:
    await served(db)
    await add(db, Sums(1, 5, 1))
    await add(db, Sums(20, 3, 2), source="b")
    await add(db, Sums(25, 4, 2), source="c")
    seen = traffic_of(await read(db, 25), T + 25)
    assert (seen.requests, seen.errors) == (12, 5)


async def test_old_points_are_forgotten_and_totals_are_not(db: Database) -> None:
    await served(db)
    await add(db, Sums(0, 100, 7), source="ended")
    for number in range(1, 14):
        await add(db, Sums(number * SPAN.total_seconds(), number))
    assert await rows(db) == 1 + KEEP // SPAN + 1
    at = 13 * SPAN.total_seconds()
    seen = traffic_of(await read(db, at), T + at)
    assert (seen.requests, seen.errors, seen.requests_per_s) == (113, 7, 1 / 60)


async def test_service_of_which_nothing_is_on_record_is_left_out(db: Database) -> None:
    await served(db)
    await add(db, Sums(1, 5), run_id="another")
    assert await rows(db) == 0


async def test_clock_that_goes_back_loses_no_request(db: Database) -> None:
    await served(db)
    await add(db, Sums(SPAN.total_seconds() + 1, 5))
    await add(db, Sums(0, 8))
    assert traffic_of(await read(db, 700), T + 700).requests == 8


async def test_sums_of_very_many_lives_are_added_up(db: Database) -> None:
    await served(db)
    lives = 2 * SOURCES_MAX

    def add_all(tx: Tx) -> None:
        for number in range(lives):
            traffic.add(tx, {("0-run", f"life-{number}"): Sums(T + number, 1, 0, 0, (1,) * 14)})

    await db.write(add_all)
    found = await read(db, lives)
    assert len(found) <= SOURCES_MAX
    assert traffic_of(found, T + lives).requests == lives
    assert sum(sum(history[-1].latencies) for history in found) == 14 * lives
    sources = await db.read(lambda tx: set(tx.select(select(tables.traffic.c.source)).scalars()))
    assert EARLIER in sources


async def test_deleted_run_leaves_no_sums(db: Database) -> None:
    await served(db)
    await add(db, Sums(1, 5))
    await db.write(lambda tx: commits.delete_run(tx, "0-run"))
    assert await rows(db) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**40), st.integers(0, 9)), max_size=9))
def test_row_is_read_as_it_was_written(steps: list[tuple[int, int, int]]) -> None:
    start, sums, points = start_of(T), Sums(T), [Sums(T)]
    for span, more, in_flight in steps:
        sums = Sums(sums.at + span, sums.requests + more, sums.errors, in_flight, (more, 0))
        points.append(sums)
    assert unpacked(packed(points, start), start) == points


async def test_traffic_wakes_the_services_that_scale(db: Database) -> None:
    await served(db)
    stored = await db.read(lambda tx: objects.find_run(tx, "0-run"))
    assert stored is not None
    scaling = replace(stored, id="1-run", name="scaling", scale=Scale(1, NOW), version=1)
    await db.write(
        lambda tx: commits.add_run(tx, scaling, [job(version=0, id="1-job", run_id="1-run")], actor="user ada")
    )
    woken: list[set[str]] = []

    def work(tx: Tx) -> None:
        before = set(tx.wakes)
        traffic.add(tx, {("0-run", "a"): Sums(T), ("1-run", "a"): Sums(T)})
        woken.append({id for kind, id in tx.wakes.keys() - before if kind == "run"})

    await db.write(work)
    assert woken == [{"1-run"}]


async def test_held_requests_are_kept_with_their_point(db: Database) -> None:
    await served(db)
    await add(db, Sums(1, 0, 0, in_flight=3, held=3))
    await add(db, Sums(12, 1, 0, in_flight=2, latencies=(1,), held=1))
    [[_, first, second]] = await read(db, 12)
    assert [(one.in_flight, one.held) for one in (first, second)] == [(3, 3), (2, 1)]
    assert traffic_of(await read(db, 12), T + 12).held == 1
    assert traffic_of(await read(db, 12), T + 100).held == 0, "the data plane is silent"


async def test_point_with_the_most_requests_that_wait_stays_beside_the_latest(db: Database) -> None:
    await served(db)
    for second, held in enumerate((2, 9, 5, 6, 0), start=1):
        await add(db, Sums(second, held=held))
    (history,) = await read(db, 9)
    assert [point.held for point in history[1:]] == [9, 0]
    await add(db, Sums(11, held=1))
    await add(db, Sums(12, held=3))
    (history,) = await read(db, 19)
    assert [point.held for point in history[1:]] == [9, 0, 3], "other seconds have points of their own"


async def test_late_report_counts_evenly_since_the_one_before(db: Database) -> None:
    """Servers that were away for minutes are not mistaken for a burst, also across the border of two rows."""
    await served(db)
    latest = start_of(T + 700).timestamp() - T  # of the second row
    first, late = latest - 100, latest + 100
    await add(db, Sums(first, 50, latencies=(50,)))
    await add(db, Sums(late, 250, latencies=(250,), is_late=True))
    await add(db, Sums(late + 1, 251, latencies=(251,)))
    histories = await read(db, late + 1, timedelta(minutes=5))
    load = Load(histories, T + late + 1)
    assert load.arrived(T + late, 15) == pytest.approx(15, abs=1)
    assert load.arrived(T + late, 60) == pytest.approx(60, abs=1)
    assert load.arrived(T + late, 150) == pytest.approx(150, abs=2)
    assert traffic_of(histories, T + late + 1).requests == 251
