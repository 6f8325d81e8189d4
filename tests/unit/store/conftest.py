from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from dstack.store.db import Database
from dstack.store.sqlite import Sqlite
from dstack.store.tables import projects, users
from dstack.store.tx import Tx
from tests.making import NOW, HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def people(tx: Tx) -> None:
    tx.change(insert(users).values(id="0-user", name="ada", is_admin=False, token_hash="x", created_at=NOW))
    tx.change(insert(projects).values(id="0-project", name="main", created_at=NOW))


@pytest.fixture
async def db(tmp_path: Path, clock: HandClock) -> AsyncIterator[Database]:
    database = Database(Sqlite(tmp_path / "test.db"), clock)
    database.open()
    await database.write(people)
    yield database
    await database.close()
