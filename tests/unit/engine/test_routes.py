"""The routes of services, as the record has them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert

from dstack.domain.objects import Next
from dstack.engine.lifecycles import check_move
from dstack.engine.routes import Book, Routes
from dstack.kit.clock import SystemClock
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.store import commits, objects
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


def begin(tx: Tx) -> None:
    """Let the job run."""
    (started,) = objects.jobs_of_run(tx, "0-run")
    commits.commit(tx, Next((replace(started, status=JobStatus.RUNNING),)), check_move)


@pytest.fixture
async def starting(db: Database) -> None:
    service = run(type="service", name="web", status=RunStatus.PROVISIONING, spec=SPEC)
    pulling = job(status=JobStatus.PULLING, version=0)
    await db.write(lambda tx: commits.add_run(tx, service, [pulling], actor="user ada"))


async def until_ready(routes: Routes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not any(service.replicas for service in routes.book.services.values()):
            await routes.wait(routes.book.version)


async def test_change_during_the_first_read_is_read_again(
    db: Database, routes: Routes, starting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, is_first = db.read, True

    async def slow(function: Callable[[Tx], object]) -> object:
        nonlocal is_first
        found = await read(function)
        if is_first:
            is_first = False
            await db.write(begin)
        return found

    monkeypatch.setattr(db, "read", slow)
    routes.start()
    await until_ready(routes)
    assert not is_first


async def test_services_are_read_again_where_notices_may_be_missing(
    db: Database, routes: Routes, starting: None
) -> None:
    def unheard(tx: Tx) -> None:
        begin(tx)
        tx.notices.changed.clear()

    routes.start()
    first = await next_of(routes, 0)
    await db.write(unheard)
    assert routes.book == first
    await db.write(lambda tx: setattr(tx.notices, "everything", True))
    await until_ready(routes)


async def test_record_without_services_has_routes_too(routes: Routes) -> None:
    routes.start()
    assert (await next_of(routes, 0)).services == {}


class EndlessSleep(SystemClock):
    async def sleep(self, span: timedelta) -> None:
        await asyncio.Event().wait()


async def test_new_token_is_known_without_a_wait(db: Database, starting: None) -> None:
    routes = Routes(db, EndlessSleep())
    routes.start()
    first = await next_of(routes, 0)

    def join(tx: Tx) -> None:
        ada_joins(tx)
        tx.notices.events = True

    await db.write(join)
    assert list((await next_of(routes, first.version)).tokens.values()) == [("main",)]
    await routes.close()
