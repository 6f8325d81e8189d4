"""The whole HTTP application in this process, on a real database."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from dstack.operations.context import Context
from dstack.server.app import create_app
from dstack.server.settings import Settings
from dstack.store.dialect import Dialect
from dstack.store.sqlite import Sqlite
from dstack.store.tables import users
from dstack.store.users import hash_of

TOKEN = "the-token-of-the-tests"
PROJECT = "/api/projects/main"
RUNS = f"{PROJECT}/runs"


@pytest.fixture
def dialect(tmp_path: Path) -> Dialect:
    """A file: the edge comes before any database."""
    return Sqlite(tmp_path / "test.db")


@pytest.fixture
async def http(context: Context, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, with the admin's token. What the application raises is answered as on the wire."""
    known = update(users).where(users.c.id == "0-user").values(token_hash=hash_of(TOKEN), is_admin=True)
    await context.db.write(lambda tx: tx.change(known))
    app = create_app(Settings(tmp_path), context)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
        yield client
