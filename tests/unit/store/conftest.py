from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from dstack.store.db import Database, Tx
from dstack.store.tables import projects, users
from tests.making import NOW, HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def people(tx: Tx) -> None:
    tx.conn.execute(insert(users).values(id="0-user", name="ada", is_admin=False, token_hash="x", created_at=NOW))
    tx.conn.execute(insert(projects).values(id="0-project", name="main", created_at=NOW))


@pytest.fixture
async def db(tmp_path: Path, clock: HandClock) -> AsyncIterator[Database]:
    database = Database(tmp_path / "test.db", clock)
    database.open()
    await database.write(people)
    yield database
    await database.close()
