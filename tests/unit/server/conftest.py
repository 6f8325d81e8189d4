"""The whole HTTP application in this process, on a real database."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from dstack.operations.context import Context
from dstack.server.app import create_app
from dstack.server.settings import Settings
from dstack.store import users
from dstack.store.dialect import Dialect
from dstack.store.sqlite import Sqlite
from dstack.store.tx import Tx

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

    def arrive(tx: Tx) -> None:
        users.set_admin(tx, "0-user", is_admin=True)
        users.add_token(tx, "0-token", "0-user", "tests", TOKEN, None)

    await context.db.write(arrive)
    app = create_app(Settings(tmp_path), context)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
        yield client
