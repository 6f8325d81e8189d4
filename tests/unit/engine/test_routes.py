"""The routes of services, as the record has them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert

from dstack.engine.routes import Book, Routes
from dstack.kit.clock import SystemClock
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.store import commits
from dstack.store.db import Database
from dstack.store.tables import members, tokens
from dstack.store.tx import Tx
from tests.making import NOW, job, run
from tests.patience import PATIENCE_S

SPEC = {"configuration": {"type": "service", "port": 8000, "commands": ["x"]}}


@pytest.fixture
async def routes(db: Database) -> AsyncIterator[Routes]:
    made = Routes(db, SystemClock())
    yield made
    await made.close()


async def next_of(routes: Routes, version: int) -> Book:
    async with asyncio.timeout(PATIENCE_S):
        return await routes.wait(version)


def ada_joins(tx: Tx) -> None:
    tx.change(insert(members).values(project_id="0-project", user_id="0-user", role="user"))
    tx.change(insert(tokens).values(id="0-token", user_id="0-user", name="x", hash="x", created_at=NOW))


async def test_first_routes_are_those_on_record(db: Database, routes: Routes) -> None:
    service = run(type="service", name="web", status=RunStatus.RUNNING, spec=SPEC)
    running = job(status=JobStatus.RUNNING, version=0)
    await db.write(lambda tx: commits.add_run(tx, service, [running], actor="user ada"))
    await db.write(ada_joins)
    assert routes.book.version == 0, "nothing is known before the record is read"
    routes.start()
    first = await next_of(routes, 0)
    assert [one.name for one in first.services.values()] == ["web"]
    assert list(first.tokens.values()) == [("main",)]


async def test_record_without_services_has_routes_too(routes: Routes) -> None:
    routes.start()
    assert (await next_of(routes, 0)).services == {}
