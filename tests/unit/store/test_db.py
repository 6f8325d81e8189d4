import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, inspect, text

from dstack.errors import ConfigurationError, DatabaseUnavailable
from dstack.kit.clock import CorrectedClock
from dstack.kit.ids import RandomIds
from dstack.store import tables, users, wakes
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.migrate import migrate
from dstack.store.notices import Notices
from dstack.store.schema import prepare_schema
from dstack.store.sqlite import Sqlite
from dstack.store.tx import Tx
from tests.making import NOW, HandClock


async def test_a_write_that_fails_harms_no_other_in_the_same_commit(db: Database) -> None:
    def broken(tx: Tx) -> None:
        wakes.add(tx, "run", "broken")
        raise ValueError("no")

    writes = [db.write(lambda tx, n=n: wakes.add(tx, "run", f"{n}")) for n in range(20)]  # type: ignore[misc]
    results = await asyncio.gather(*writes[:10], db.write(broken), *writes[10:], return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [ValueError]

    def count(tx: Tx) -> int:
        wakes.take_due(tx)
        return len(tx.wakes)

    assert await db.write(count) == 20


async def test_database_is_opened_at_the_time_of_a_corrected_clock(tmp_path: Path) -> None:
    ahead = HandClock()
    await ahead.sleep(timedelta(hours=1))
    clock = CorrectedClock(ahead)

    class Shared(Sqlite):
        def prepare(self) -> None:
            super().prepare()
            clock.correct(NOW)

    db = Database(Shared(tmp_path / "server.db"), clock)
    db.open()
    assert await db.write(lambda tx: tx.opened_at) == NOW
    await db.close()


async def test_what_a_write_wakes_is_looked_at_in_the_same_commit(db: Database) -> None:
    looked: list[tuple[str, str]] = []

    def look(tx: Tx) -> None:
        looked.extend(tx.wakes)
        tx.wakes.clear()

    db.react(look)
    await db.write(lambda tx: wakes.add(tx, "run", "r"))
    assert looked == [("run", "r")]


async def test_a_look_that_fails_takes_nothing_of_the_write_with_it(db: Database) -> None:
    def fail(tx: Tx) -> None:
        tx.change(text("DELETE FROM users"))
        raise ValueError("a bug")

    db.react(fail)
    await db.write(lambda tx: wakes.add(tx, "run", "r"))
    assert await db.read(lambda tx: tx.select(text("SELECT count(*) FROM users")).scalar()) == 1
    later = await db.write(wakes.take_due)
    assert later is not None and later > NOW, "it is looked at again, but not at once"


async def test_listeners_hear_of_what_was_committed_and_of_nothing_else(db: Database) -> None:
    heard: list[Notices] = []
    db.listen(heard.append)

    def broken(tx: Tx) -> None:
        wakes.add(tx, "run", "broken")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await db.write(broken)
    assert not any(notices.next_due for notices in heard)
    await db.write(lambda tx: wakes.add(tx, "run", "r"))
    assert heard[-1].next_due


def columns(dialect: Dialect) -> dict[str, list[str]]:
    found = inspect(dialect.engine)
    return {
        name: sorted(f"{column['name']} {column['type']} {column['nullable']}" for column in found.get_columns(name))
        + sorted(str(index["name"]) for index in found.get_indexes(name))
        for name in found.get_table_names()
    }


def test_migrations_make_the_same_tables_as_a_new_database_has(dialect: Dialect) -> None:
    prepare_schema(dialect)
    new = columns(dialect)
    with dialect.engine.begin() as conn:
        tables.metadata.drop_all(conn)
        conn.execute(text("DROP TABLE alembic_version"))
    with dialect.engine.begin() as conn:
        migrate(conn)
    assert columns(dialect) == new
    dialect.engine.dispose()


async def test_token_of_a_server_with_one_user_stays_valid(dialect: Dialect, clock: HandClock) -> None:
    with dialect.engine.begin() as conn:
        migrate(conn, "0007")
        values = {"hash": users.hash_of("value"), "at": 1_700_000_000_000_000}
        conn.execute(text("INSERT INTO users VALUES ('0-user', 'admin', true, :hash, :at)"), values)
        conn.execute(text("INSERT INTO projects VALUES ('0-project', 'main', :at)"), values)
        conn.execute(text("INSERT INTO members VALUES ('0-project', '0-user', 'admin')"))
    database = Database(dialect, clock)
    database.open()
    user = await database.read(lambda tx: users.find_by_token(tx, "value"))
    assert user is not None and (user.name, user.is_admin) == ("admin", True)
    await database.write(lambda tx: users.ensure_admin(tx, RandomIds(clock), "value"))
    assert [one.name for one in await database.read(lambda tx: users.list_tokens(tx, "0-user"))] == ["server"]
    assert await database.read(lambda tx: users.projects_of(tx, user)) == [("main", "admin")]
    await database.close()


def test_a_database_of_a_newer_dstack_is_refused_with_both_versions(dialect: Dialect) -> None:
    prepare_schema(dialect)
    with dialect.engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match=f"version 9999.*up to {tables.HEAD}"):
        prepare_schema(dialect)
    dialect.engine.dispose()


async def test_a_damaged_database_is_refused_by_name(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(b"this is no database" * 100)
    database = Database(Sqlite(path), clock)
    with pytest.raises(ConfigurationError, match=r"damaged\.db.*cannot be used: file is not a database"):
        database.open()


async def test_what_is_committed_survives_a_connection_that_never_closes(db: Database, dialect: Dialect) -> None:
    await db.write(lambda tx: wakes.add(tx, "run", "r"))
    with dialect.engine.connect() as other:
        assert other.execute(text("SELECT id FROM wakes")).fetchall() == [("r",)]


async def test_a_write_that_fails_halfway_takes_only_itself_back(db: Database) -> None:
    def half(tx: Tx) -> None:
        tx.change(text("DELETE FROM users"))
        raise ValueError("no")

    writes = [db.write(lambda tx, n=n: wakes.add(tx, "run", f"{n}")) for n in range(3)]  # type: ignore[misc]
    results = await asyncio.gather(db.write(half), *writes, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [ValueError]
    assert await db.read(lambda tx: tx.select(text("SELECT count(*) FROM users")).scalar()) == 1
    assert await db.read(lambda tx: tx.select(text("SELECT count(*) FROM wakes")).scalar()) == 3


@pytest.mark.parametrize(
    "trouble, relief, reason",
    [
        ("query_only=ON", "query_only=OFF", "attempt to write a readonly database"),
        ("max_page_count=1", "max_page_count=100000", "database or disk is full"),
    ],
    ids=["read-only", "full"],
)
async def test_a_database_that_takes_no_writes_says_so_loses_nothing_and_is_used_again(
    tmp_path: Path, clock: HandClock, trouble: str, relief: str, reason: str
) -> None:
    dialect = Sqlite(tmp_path / "test.db")
    db = Database(dialect, clock)
    db.open()
    state = [relief]

    @event.listens_for(dialect.engine, "begin")
    def befall(conn: Connection) -> None:
        conn.exec_driver_sql(f"PRAGMA {state[-1]}")

    def remember(tx: Tx, number: int) -> None:
        for one in range(200):
            wakes.add(tx, "run", f"{number}-{one}")

    async def count() -> int:
        return await db.read(lambda tx: len(tx.select(text("SELECT id FROM wakes")).all()))

    await db.write(lambda tx: remember(tx, 0))
    state.append(trouble)
    with pytest.raises(DatabaseUnavailable, match=f"cannot be written now: {reason}") as caught:
        await db.write(lambda tx: remember(tx, 1))
    assert caught.value.retryable and caught.value.hint
    assert await count() == 200
    state.append(relief)
    await db.write(lambda tx: remember(tx, 2))
    assert await count() == 400
    await db.close()
