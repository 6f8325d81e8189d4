"""What a server remembers is true after another has written, and costs no second reading of what is as it was."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text

from dstack.domain.objects import Next
from dstack.domain.offers import Bounds, Demand
from dstack.engine.lifecycles import check_move
from dstack.kit.clock import CorrectedClock, SystemClock
from dstack.protocol.statuses import JobReason
from dstack.store import commits, objects, queue, wakes
from dstack.store.db import Database
from dstack.store.postgres import Postgres
from dstack.store.tables import projects, users
from dstack.store.tables import wakes as table
from dstack.store.tx import Tx
from tests.making import DEMAND, NOW, instance, job, run

JOBS = 30


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


@pytest.fixture
async def one(join: Callable[[str], Database]) -> Database:
    def fill(tx: Tx) -> None:
        tx.change(insert(users).values(id="0-user", name="ada", is_admin=False, token_hash="x", created_at=NOW))
        tx.change(insert(projects).values(id="0-project", name="main", created_at=NOW))
        for number in range(JOBS):
            _add(tx, number)
        tx.wakes.clear()

    made = join("one")
    await made.write(fill)
    return made


def _demand(number: int) -> Demand:
    return replace(DEMAND, cpus=Bounds(1 + number % 3, None, written=True))


def _add(tx: Tx, number: int) -> None:
    waiting = job(id=f"{number:02}-job", run_id=f"{number:02}-run", version=0, demand=_demand(number))
    commits.add_run(tx, run(id=f"{number:02}-run", name=f"r-{number}"), [waiting], actor="user ada")


@contextmanager
def statements_of(db: Database) -> Iterator[list[str]]:
    said: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        said.append(statement)

    event.listen(db._dialect.engine, "before_cursor_execute", note)
    yield said
    event.remove(db._dialect.engine, "before_cursor_execute", note)


def _order(tx: Tx) -> list[tuple[str, ...]]:
    return [(gang.run_id, *gang.ids) for gang in queue.Waiting(tx).gangs(())]


def _afresh(tx: Tx) -> list[tuple[str, ...]]:
    tx.known.clear()
    return _order(tx)


async def test_queue_that_another_server_changed_is_compared_and_not_read_again(
    one: Database, join: Callable[[str], Database]
) -> None:
    two = join("two")
    assert len(await one.write(_order)) == JOBS

    def change(tx: Tx) -> None:
        _add(tx, JOBS)
        stopped = objects.find_job(tx, "03-job")
        lifted = objects.find_run(tx, "20-run")
        assert stopped is not None and lifted is not None
        commits.record(tx, replace(stopped, stop_asked=JobReason.STOPPED_BY_USER))
        commits.record(tx, replace(lifted, priority=7))

    await two.write(change)
    with statements_of(one) as said:
        order = await one.write(_order)
    assert len([statement for statement in said if "demand" in statement]) == 1
    assert "IN (" in next(statement for statement in said if "demand" in statement)
    assert order == await one.write(_afresh)
    assert order[0][0] == "20-run" and ("03-run", "03-job") not in order and (f"{JOBS}-run", f"{JOBS}-job") in order


async def test_what_was_rolled_back_is_not_taken_for_what_another_server_wrote(
    one: Database, join: Callable[[str], Database]
) -> None:
    """Both versions have one number."""
    machine = instance(version=0, project_id=None)
    await one.write(lambda tx: commits.commit(tx, Next((machine,)), check_move))

    def change_in_vain(tx: Tx) -> None:
        found = objects.find_instance(tx, machine.id)
        assert found is not None
        commits.record(tx, replace(found, ssh_port=1))
        tx.select(text("SELECT 1"))
        tx.known.clear()
        objects.instances_by_id(tx, [machine.id])
        raise ValueError

    with pytest.raises(ValueError):
        await one.write(change_in_vain)

    def change(tx: Tx) -> None:
        found = objects.find_instance(tx, machine.id)
        assert found is not None
        commits.record(tx, replace(found, ssh_port=2))

    await join("two").write(change)
    assert (await one.write(lambda tx: objects.instances_by_id(tx, [machine.id])))[machine.id].ssh_port == 2


KILLED = {
    "a statement that takes too long": ("SET LOCAL statement_timeout = '20ms'", "SELECT pg_sleep(60)"),
    "a transaction that rests for too long": (
        "SET LOCAL idle_in_transaction_session_timeout = '20ms'",
        "SELECT count(*) FROM runs",
    ),
}


@pytest.mark.parametrize("how", KILLED)
async def test_steps_that_the_database_kills_are_repeated_later_and_the_write_is_committed(
    one: Database, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    limit, statement = KILLED[how]
    looks = list[str]()

    def reactor(tx: Tx) -> None:
        looks.append("killed")
        tx.change(text(limit))
        time.sleep(0.1)
        tx.select(text(statement))

    one.react(reactor)
    await one.write(lambda tx: wakes.add(tx, "run", "00-run"))
    assert looks == ["killed"] * 2
    assert [record.levelname for record in caplog.records if record.name == "dstack.store.db"] == ["ERROR"]
    left = await one.read(lambda tx: tx.select(select(table.c.kind, table.c.id)).all())
    assert [tuple(row) for row in left] == [("run", "00-run")], "it is looked at again"
