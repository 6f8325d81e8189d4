"""A server takes over the database that an earlier version has left."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dstack.engine.turn import Turn
from dstack.kit.ids import RandomIds
from dstack.operations.context import Context
from dstack.store import users, wakes
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.tables import instances, intents, jobs, runs
from dstack.store.tx import Tx
from dstack.testing.servers import TOKEN
from tests.making import HandClock
from tests.recorded import loading
from tests.recorded.answers import answers_of
from tests.unit.conftest import context_on


@pytest.fixture(params=loading.SCHEMAS)
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def context(schema: str, dialect: Dialect, clock: HandClock, tmp_path: Path) -> AsyncIterator[Context]:
    clock.time = loading.time_of(schema)
    loading.load(schema, dialect, tmp_path)
    loading.write_logs(schema, tmp_path / "logs")
    db = Database(dialect, clock)
    db.open()
    context = context_on(db, clock, tmp_path)
    turn = Turn(RandomIds(clock), context.catalog)
    db.react(turn.take)
    yield replace(context, why_waiting=turn.why_waiting)
    await db.close()


async def test_every_view_answers_as_before(context: Context, schema: str) -> None:
    user = await context.db.read(lambda tx: users.find_by_token(tx, TOKEN))
    assert user is not None
    await context.db.write(lambda tx: wakes.add(tx, "scheduler", "placement"))
    answers = await answers_of(context, user)
    assert lost(loading.answers(schema), answers) == []


async def test_nothing_is_restarted(context: Context) -> None:
    before = await context.db.read(on_record)
    everything = await context.db.read(wakes.everything)
    await context.db.write(lambda tx: wakes.add_many(tx, everything))
    await context.db.write(wakes.take_due)
    assert await context.db.read(on_record) == before


NOT_YET = ("service_url", "service_model")
"""Fields that earlier versions had, and always left empty."""


def on_record(tx: Tx) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows that change when a job is started, ended or tried once more."""
    tables = (runs, jobs, instances, intents)
    return {
        table.name: [tuple(row) for row in tx.select(select(table).order_by(*table.primary_key))] for table in tables
    }


def lost(before: Any, now: Any, path: str = "") -> list[str]:
    """Return the places at which an answer lacks something, or has another value. New fields are no loss."""
    match before, now:
        case dict(), dict():
            names = [name for name in before if name not in NOT_YET or before[name] is not None]
            return [at for name in names for at in lost(before[name], now.get(name), f"{path}.{name}")]
        case list(), list() if len(before) == len(now):
            return [
                at
                for i, (one, other) in enumerate(zip(before, now, strict=True))
                for at in lost(one, other, f"{path}[{i}]")
            ]
        case _:
            return [] if before == now else [f"{path}: {before!r} is {now!r}"]
