"""Several servers on one database: each instance has one that sees to it, whoever freezes, dies or joins."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, LiteralString

import pytest
from psycopg import AsyncConnection
from sqlalchemy import select

from dstack.domain.sharding import SHARDS
from dstack.engine import leases as module
from dstack.engine.leases import Leases, LeaseTerms
from dstack.errors import DatabaseUnavailable, LeaseLost
from dstack.kit.clock import CorrectedClock, SystemClock
from dstack.store import leases as table
from dstack.store.db import Database
from dstack.store.postgres import OURS, Postgres
from dstack.store.tables import replicas
from tests.patience import PATIENCE_S

TERMS = LeaseTerms(timedelta(seconds=1), timedelta(seconds=0.05), timedelta(seconds=0.2))
INSTANCES = [f"{number}-instance" for number in range(200)]


class Server:
    """One of several: as much of it as leases need."""

    def __init__(self, url: str, name: str, clock: CorrectedClock) -> None:
        self.db = Database(Postgres(url, clock, server=name), clock)
        self.clock = clock
        self.leases = Leases(self.db, clock, f"0-{name}", name, alone=False, terms=TERMS)

    async def start(self) -> None:
        self.db.open()
        await self.leases.start()

    @property
    def owned(self) -> set[str]:
        return {id for id in INSTANCES if self.leases.owns(id)}


@pytest.fixture
async def start(postgres_url: str) -> AsyncIterator[Callable[..., object]]:
    async with AsyncExitStack() as stack:

        async def make(name: str, clock: CorrectedClock | None = None) -> Server:
            server = Server(postgres_url, name, clock or CorrectedClock(SystemClock()))
            await server.start()
            stack.push_async_callback(server.db.close)
            stack.push_async_callback(server.leases.close)
            return server

        yield make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - from outside there is nothing to wait for
            await asyncio.sleep(0.01)


async def test_each_instance_has_one_server_and_a_new_one_gets_its_part(start: Callable[..., object]) -> None:
    one = await start("one")
    assert one.owned == set(INSTANCES)
    two = await start("two")
    await until(lambda: len(two.owned) > 50 and one.owned | two.owned == set(INSTANCES))
    assert not one.owned & two.owned


async def test_who_leaves_is_followed_at_once_and_who_dies_when_his_lease_is_over(start: Callable[..., object]) -> None:
    one, two, three = [await start(name) for name in ("one", "two", "three")]
    await until(lambda: min(len(two.owned), len(three.owned)) > 30)
    await two.leases.close()
    await three.leases._tasks.close()  # dead: it renews nothing, and gives nothing back
    await until(lambda: one.owned == set(INSTANCES))


async def test_who_was_frozen_writes_nothing_for_what_another_has_taken(start: Callable[..., object]) -> None:
    frozen = await start("frozen")
    await frozen.leases._tasks.close()
    other = await start("other")
    await until(lambda: other.owned == set(INSTANCES))
    assert frozen.owned == set(), "its lease has run out"
    with pytest.raises(LeaseLost, match="Another server owns the shard of `1-instance`"):
        await frozen.db.write(lambda tx: frozen.leases.check(tx, "1-instance"))
    await other.db.write(lambda tx: other.leases.check(tx, "1-instance"))
    assert other.leases.epoch_of("1-instance") > frozen.leases.epoch_of("1-instance")


async def test_renewal_waits_for_no_turn(start: Callable[..., object], postgres_url: str) -> None:
    """A long pass of another server, or a long queue of writes, must not cost a lease."""
    one = await start("one")
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", [OURS])
        [before] = await _one_row(conn, "SELECT expires_at FROM replicas")
        over = before + 2 * TERMS.lasts / timedelta(microseconds=1)
        async with asyncio.timeout(PATIENCE_S):
            while (await _one_row(conn, "SELECT expires_at FROM replicas"))[0] < over:
                assert one.owned == set(INSTANCES)
                await asyncio.sleep(0.01)
        assert one.owned == set(INSTANCES)
        await conn.execute("SELECT pg_advisory_unlock_all()")


async def _one_row(conn: AsyncConnection[Any], query: LiteralString) -> tuple[Any, ...]:
    row = await (await conn.execute(query)).fetchone()
    assert row is not None
    return tuple(row)


async def test_server_that_has_no_turn_for_long_renews_no_lease(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others take over from it: it could record nothing of what it did."""
    now_s = 1000.0
    monkeypatch.setattr(module, "_now_s", lambda: now_s)
    terms = LeaseTerms(lasts=timedelta(hours=1), turn_within=timedelta(minutes=1))
    leases = Leases(db, SystemClock(), "0-one", "here", alone=False, terms=terms)
    await leases._divide()
    expiries = []
    for passed_s in (0, 30, 31):
        now_s += passed_s
        await leases._renew()
        expiries.append(await db.read(lambda tx: tx.select(select(replicas.c.expires_at)).scalar_one()))
    assert expiries[0] < expiries[1] == expiries[2]


async def test_lease_ends_by_deletion_alone(db: Database) -> None:
    """A renewal that comes first keeps the lease, also after its time. One that comes later is refused."""
    past, future = db_now(db) - timedelta(hours=1), db_now(db) + timedelta(hours=1)
    await db.write(lambda tx: [table.renew(tx, id, id, past) for id in ("0-late", "0-dead")])
    assert await db.beside(lambda tx: table.beat(tx, "0-late", future))
    assert set(await db.write(lambda tx: table.expire(tx, "0-me"))) == {"0-late"}
    assert not await db.beside(lambda tx: table.beat(tx, "0-dead", future))


def db_now(db: Database) -> datetime:
    return db._clock.now()


async def test_nothing_is_given_away_while_something_is_under_way(start: Callable[..., object]) -> None:
    busy = await start("busy")
    busy.leases.keep_while_busy(lambda shard: True)
    two = await start("two")
    live = await busy.db.read(table.live_replicas)
    assert sorted(live.values()) == ["busy", "two"]
    await busy.leases._divide()
    assert (len(busy.owned), len(two.owned)) == (len(INSTANCES), 0)
    busy.leases.keep_while_busy(lambda shard: False)
    await until(lambda: len(two.owned) > 50)


async def test_a_server_whose_clock_is_an_hour_off_agrees_with_the_others(start: Callable[..., object]) -> None:
    class Fast(SystemClock):
        def now(self) -> object:  # type: ignore[override]
            return super().now() + timedelta(hours=1)

    right = await start("right")
    wrong = await start("wrong", CorrectedClock(Fast()))  # type: ignore[arg-type]
    await until(lambda: len(wrong.owned) > 50 and right.owned | wrong.owned == set(INSTANCES))
    assert abs(right.clock.now() - wrong.clock.now()) < timedelta(minutes=1)


async def test_a_server_that_is_alone_has_everything_and_more_right_than_any_before_it(db: Database) -> None:
    former, epochs = None, list[int]()
    for name in ("first", "second"):
        former = Leases(db, SystemClock(), f"0-{name}", "here", alone=True)
        await former.start()
        epochs.append(former.epoch_of("0-instance"))
        await former.close()
    assert epochs[1] > epochs[0]
    assert len(await db.read(table.owners)) == SHARDS


class Heard:
    """What a listener of leases was told, and whether it fails."""

    def __init__(self, leases: Leases) -> None:
        self.gained = 0
        self.owned_when_lost: list[bool] = []
        self.fails = False
        self._leases = leases
        leases.when_gained(self._gain)
        leases.when_lost(self._lose)

    async def _gain(self) -> None:
        if self.fails:
            raise DatabaseUnavailable("The server's database cannot be read just now")
        self.gained += 1

    async def _lose(self) -> None:
        self.owned_when_lost.append(self._leases.owns("0-instance"))


async def test_what_was_dropped_while_a_renewal_took_too_long_is_taken_up_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No renewal failed, and nobody else took anything: but whoever asked meanwhile was told that it is not ours."""
    now_s = 1000.0
    monkeypatch.setattr(module, "_now_s", lambda: now_s)
    leases = Leases(db, SystemClock(), "0-one", "here", alone=False, terms=TERMS)
    heard = Heard(leases)
    await leases._divide()
    await leases._divide()
    assert (leases.owns("0-instance"), heard.gained) == (True, 1)
    now_s += TERMS.lasts.total_seconds()
    assert not leases.owns("0-instance")
    await leases._divide()
    assert (leases.owns("0-instance"), heard.gained) == (True, 2)


async def test_what_another_had_meanwhile_is_lost_before_it_is_gained_again(db: Database) -> None:
    leases = Leases(db, SystemClock(), "0-one", "here", alone=False)
    heard = Heard(leases)
    await leases._divide()
    before = leases.epoch_of("0-instance")
    await db.write(lambda tx: (table.take(tx, "0-other", range(SHARDS)), table.leave(tx, "0-other")))
    await leases._divide()
    assert leases.epoch_of("0-instance") > before
    assert heard.owned_when_lost == [False], "whoever acts under the old number lets go"
    assert heard.gained == 2


async def test_who_could_not_take_up_what_was_gained_is_told_again(db: Database) -> None:
    leases = Leases(db, SystemClock(), "0-one", "here", alone=False)
    heard = Heard(leases)
    heard.fails = True
    with pytest.raises(DatabaseUnavailable):
        await leases._divide()
    heard.fails = False
    await leases._divide()
    assert heard.gained == 1
