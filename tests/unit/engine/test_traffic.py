"""The sums of a data plane on their way into the database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dstack.domain.traffic import traffic_of
from dstack.engine import traffic as engine_traffic
from dstack.engine.traffic import TrafficLog
from dstack.errors import DatabaseUnavailable
from dstack.protocol.proxy import Count, Counted
from dstack.store import commits, traffic
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.making import NOW, HandClock, job, run
from tests.patience import PATIENCE_S


@pytest.fixture
async def log(db: Database, clock: HandClock) -> AsyncIterator[TrafficLog]:
    service = run(type="service", spec={"configuration": {"type": "service", "port": 80, "commands": ["x"]}})
    await db.write(lambda tx: commits.add_run(tx, service, [job(version=0)], actor="user ada"))
    made = TrafficLog(db, clock)
    yield made
    await made.close()


def counted(requests: int, in_flight: int = 0, epoch: str = "a", held: int = 0, **others: Count) -> Counted:
    return Counted(epoch, {"0-run": Count(requests, 0, in_flight, (requests,) + (0,) * 13, held), **others})


async def requests(db: Database) -> int:
    found = await db.read(lambda tx: traffic.read(tx, ["0-run"], NOW))
    return traffic_of(found.get("0-run", []), NOW.timestamp() + 1).requests


async def test_next_server_goes_on_where_the_last_one_was(db: Database, log: TrafficLog, clock: HandClock) -> None:
    log.take(counted(5))
    await log.close()
    following = TrafficLog(db, clock)
    following.take(counted(5))  # what it has at its first report
    following.take(counted(7))
    await following.close()
    assert await requests(db) == 7


async def test_next_data_plane_begins_at_zero_and_adds(db: Database, log: TrafficLog) -> None:
    log.take(counted(5))
    log.take(counted(0, epoch="b"))
    log.take(counted(2, epoch="b"))
    await log.close()
    assert await requests(db) == 7


async def test_next_data_plane_ends_the_requests_in_flight_of_the_one_before(db: Database, log: TrafficLog) -> None:
    log.take(counted(5, in_flight=3, held=2))
    log.take(counted(0, in_flight=1, held=1, epoch="b"))
    await log.close()
    found = await db.read(lambda tx: traffic.read(tx, ["0-run"], NOW))
    seen = traffic_of(found["0-run"], NOW.timestamp() + 1)
    assert (seen.requests, seen.in_flight, seen.held) == (5, 1, 1)


async def test_requests_that_go_on_are_stored_once_in_ten_seconds(
    db: Database, log: TrafficLog, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    add = traffic.add

    def counted_add(tx: Tx, sums: Any) -> None:
        stored.append(len(sums))
        add(tx, sums)

    monkeypatch.setattr(traffic, "add", counted_add)
    for _ in range(3):
        log.take(counted(5, in_flight=2))
        await log.close()
    assert stored == [1]
    clock.time += engine_traffic.STEP
    log.take(counted(5, in_flight=2))
    await log.close()
    assert stored == [1, 1]


async def test_database_that_is_away_loses_nothing(
    db: Database, log: TrafficLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., Any] = db.write

    async def away(function: Callable[[Tx], Any]) -> Any:
        raise DatabaseUnavailable("it is away")

    monkeypatch.setattr(db, "write", away)
    log.take(counted(5))
    await log.close()
    monkeypatch.setattr(db, "write", write)
    await log.close()
    assert await requests(db) == 5


async def test_service_that_was_deleted_harms_no_other(db: Database, log: TrafficLog) -> None:
    log.take(counted(5, deleted=Count(9, 9, 0, (9,))))
    await log.close()
    assert await requests(db) == 5


async def test_request_that_begins_to_wait_for_a_replica_is_stored_at_once(
    db: Database, log: TrafficLog, clock: HandClock
) -> None:
    stored = asyncio.Event()
    db.listen(lambda notices: stored.set())
    log.take(counted(5))
    log.take(counted(5, in_flight=1, held=1))
    async with asyncio.timeout(PATIENCE_S):  # no time passes on the clock
        await stored.wait()
    found = await db.read(lambda tx: traffic.read(tx, ["0-run"], NOW))
    assert [sums.held for history in found["0-run"] for sums in history] == [0, 1]


async def test_report_that_is_late_stays_so_until_it_is_stored(db: Database, log: TrafficLog) -> None:
    log.take(counted(5))
    await log.close()
    log.take(Counted("a", {"0-run": Count(9, 0, 0, (9,) + (0,) * 13)}, is_late=True))
    log.take(counted(10))
    await log.close()
    found = await db.read(lambda tx: traffic.read(tx, ["0-run"], NOW))
    assert [(sums.requests, sums.is_late) for sums in found["0-run"][0]][1:] == [(10, True)]
