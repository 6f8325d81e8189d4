"""A server whose database a newer server migrates while it runs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import CorrectedClock, SystemClock
from dstack.server.app import create_app
from dstack.server.settings import Settings
from dstack.store import users, wakes
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.migrate import migrate
from dstack.store.postgres import Postgres
from tests.unit.conftest import context_on


@pytest.fixture
async def updated(postgres_url: str) -> AsyncIterator[Database]:
    """A server's database after another one has migrated it."""
    clock = CorrectedClock(SystemClock())
    database = Database(Postgres(postgres_url, clock, server="old"), clock)
    database.open()
    await database.write(lambda tx: users.add_user(tx, "0-user", "ada", is_admin=True))
    await database.write(lambda tx: users.add_token(tx, "0-token", "0-user", "t", "known", None))
    await database.write(lambda tx: tx.change(text("UPDATE alembic_version SET version_num = '9999'")))
    yield database
    await database.close()


async def test_server_reports_a_newer_database_and_writes_nothing(updated: Database) -> None:
    refused = await asyncio.gather(
        *(updated.write(lambda tx: wakes.add(tx, "run", "r")) for _ in range(3)), return_exceptions=True
    )
    for error in refused:
        assert isinstance(error, DatabaseUnavailable)
        assert "newer than this server: it has version 9999" in error.message
        assert error.hint == "Restart this server with the new version of dstack"
    with pytest.raises(DatabaseUnavailable, match="newer than this server"):
        await updated.read(lambda tx: users.count_users(tx))


async def test_unknown_token_is_not_blamed_when_the_database_is_newer(updated: Database, tmp_path: Path) -> None:
    context = context_on(updated, SystemClock(), tmp_path)
    transport = httpx.ASGITransport(create_app(Settings(tmp_path), context))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        answer = await http.get("/api/users/me", headers={"Authorization": "Bearer moved"})
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert "newer than this server" in answer.json()["detail"]


def test_server_of_the_version_before_still_finds_the_token(dialect: Dialect) -> None:
    """A rolling update of servers on one PostgreSQL database has both versions for a while."""
    user = {"id": "0-user", "hash": users.hash_of("former")}
    with dialect.engine.begin() as conn:
        migrate(conn, "0007")
        conn.execute(
            text("INSERT INTO users (id, name, is_admin, token_hash, created_at) VALUES (:id, 'ada', true, :hash, 0)"),
            user,
        )
        migrate(conn)
        of_before = text("SELECT id FROM users WHERE token_hash = :hash")
        assert conn.execute(of_before, user).scalar_one() == "0-user"
        assert conn.execute(text("SELECT hash FROM tokens WHERE user_id = :id"), user).scalar_one() == user["hash"]
    dialect.engine.dispose()
