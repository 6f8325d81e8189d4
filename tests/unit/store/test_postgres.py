"""What is particular about PostgreSQL: servers hear each other, and outlive what happens to the database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import text

from dstack.domain.intents import StopJob
from dstack.domain.objects import Next
from dstack.engine.lifecycles import check_move
from dstack.errors import ConfigurationError, InvalidRequestError
from dstack.kit.clock import CorrectedClock, SystemClock
from dstack.store import commits, objects, wakes
from dstack.store.db import Database
from dstack.store.notices import Notices, Open, of_message, to_messages
from dstack.store.postgres import Postgres
from dstack.store.tx import Tx
from tests.making import NOW, instance
from tests.patience import PATIENCE_S
from tests.postgres import PostgresServer


@pytest.fixture
async def join(postgres_url: str) -> AsyncIterator[Callable[[str], Database]]:
    async with AsyncExitStack() as stack:

        def make(name: str) -> Database:
            clock = CorrectedClock(SystemClock())
            database = Database(Postgres(postgres_url, clock, server=name), clock)
            database.open()
            stack.push_async_callback(database.close)
            return database

        yield make


class Ear:
    """Waits for what a server hears."""

    def __init__(self, db: Database) -> None:
        self._heard: asyncio.Queue[Notices] = asyncio.Queue()
        db.listen(self._heard.put_nowait)

    async def until(self, wanted: Callable[[Notices], object]) -> Notices:
        """The first of which this is true."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                notices = await self._heard.get()
                if wanted(notices):
                    return notices


async def test_what_one_server_commits_the_others_hear(join: Callable[[str], Database]) -> None:
    one, two = join("one"), join("two")
    ear = Ear(two)
    await ear.until(lambda heard: heard.everything)
    machine = instance(version=0, project_id=None)

    def write(tx: Tx) -> None:
        commits.commit(tx, Next((machine,), (StopJob("0-job", machine.id, 1.0),)), check_move)

    await one.write(write)
    heard = await ear.until(lambda heard: heard.instances)
    assert (heard.instances, heard.asked, heard.intents) == ({machine.id}, {machine.id}, [])
    assert heard.next_due is not None
    one.announce("0-job")
    assert (await ear.until(lambda heard: heard.changed)).changed == {"0-job"}


async def test_what_another_server_wrote_is_what_a_server_decides_on(join: Callable[[str], Database]) -> None:
    one, two = join("one"), join("two")
    machine = instance(version=0, project_id=None)
    await one.write(lambda tx: commits.commit(tx, Next((machine,)), check_move))
    for db, port in ((two, 1), (one, 2), (two, 3)):

        def change(tx: Tx, port: int = port) -> int | None:
            found = objects.find_instance(tx, machine.id)
            assert found is not None
            before = found.ssh_port
            commits.record(tx, _with_port(found, port))
            return before

        assert await db.write(change) == (None if port == 1 else port - 1)


def _with_port(found: Any, port: int) -> Any:
    from dataclasses import replace

    return replace(found, ssh_port=port)


async def test_a_database_that_was_away_is_used_again_and_nothing_is_missed(
    join: Callable[[str], Database], postgres: PostgresServer
) -> None:
    db = join("one")
    ear = Ear(db)
    await ear.until(lambda heard: heard.everything)
    await asyncio.to_thread(postgres.restart)
    await db.write(lambda tx: wakes.add(tx, "run", "r"))
    assert await db.read(lambda tx: len(tx.select(text("SELECT id FROM wakes")).all())) == 1
    await ear.until(lambda heard: heard.everything)


def test_messages_are_small_and_say_all() -> None:
    asked = [Open(0, StopJob(f"{number}-job", f"{number:036}", 1.0)) for number in range(1000)]
    notices = Notices(events=True, next_due=NOW, intents=asked, instances={"1-instance"}, changed={"1-run"})
    messages = list(to_messages(notices))
    assert max(map(len, messages)) < 7900
    heard = [of_message(message) for message in messages]
    assert set().union(*(one.asked for one in heard)) == {f"{number:036}" for number in range(1000)}
    assert {id for one in heard for id in one.instances | one.changed} == {"1-instance", "1-run"}
    assert all(one.next_due == NOW and one.events for one in heard)
    assert list(to_messages(Notices())) == []


def test_an_address_that_is_none_of_postgresql_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not the address of a PostgreSQL database"):
        Postgres("sqlite:///x", CorrectedClock(SystemClock()), server="one")


@pytest.mark.parametrize(
    "url", ["postgresql://ada:p@ss:phrase@host/dstack", "postgresql://ada:secret@host:port/dstack"]
)
def test_an_address_that_is_written_wrongly_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not the address of a PostgreSQL database") as caught:
        Postgres(url, CorrectedClock(SystemClock()), server="one")
    assert "phrase" not in str(caught.value) and "secret" not in str(caught.value)
    assert caught.value.__context__ is None


async def test_what_is_not_understood_of_another_server_is_like_a_break(join: Callable[[str], Database]) -> None:
    """It may be newer, or not a server at all."""
    one = join("one")
    ear = Ear(one)
    await ear.until(lambda heard: heard.everything)
    await one.write(lambda tx: tx.change(text("SELECT pg_notify('dstack', 'somebody [1, 2]')")))
    await ear.until(lambda heard: heard.everything)


async def test_a_connection_that_died_in_silence_is_found_out(postgres_url: str) -> None:
    """Whoever only listens would otherwise wait for hours, and miss what he is asked to do."""
    dialect = Postgres(postgres_url, CorrectedClock(SystemClock()), server="one")
    with dialect.engine.connect() as conn:
        assert conn.connection.dbapi_connection is not None
        said = conn.connection.dbapi_connection.info.get_parameters()
    dialect.engine.dispose()
    assert int(said["keepalives_idle"]) + int(said["keepalives_interval"]) * int(said["keepalives_count"]) <= 15
    assert int(said["tcp_user_timeout"]) <= 15_000


async def test_characters_that_postgresql_does_not_take_harm_nobody_else(join: Callable[[str], Database]) -> None:
    one = join("one")
    writes = [one.write(lambda tx, n=n: wakes.add(tx, "run", f"{n}")) for n in range(3)]  # type: ignore[misc]
    results = await asyncio.gather(
        one.write(lambda tx: objects.find_run_by(tx, "0-project", "a\0b")), *writes, return_exceptions=True
    )
    assert results[1:] == [None, None, None]
    assert isinstance(results[0], InvalidRequestError)
