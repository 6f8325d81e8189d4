"""The parts that a server stands on, the real ones: a database of each kind in turn, a bucket, a machine on sale."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from dstack.backends import Drivers
from dstack.backends.registry import BackendRegistry
from dstack.blobs.files import BlobFiles
from dstack.bucket import Bucket
from dstack.domain.market import Market
from dstack.engine.catalog import Catalog
from dstack.engine.leases import Leases
from dstack.engine.reconciler import Reconciler
from dstack.kit.clock import Clock, CorrectedClock
from dstack.kit.ids import RandomIds
from dstack.kit.signals import Signals
from dstack.kit.vault import Vault
from dstack.logs.files import LogFiles
from dstack.operations.context import Context
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.postgres import Postgres
from dstack.store.sqlite import Sqlite
from dstack.store.tables import projects, users
from dstack.store.tx import Tx
from dstack.testing.world import TEST_KEY
from tests.making import HERE, NOW, HandClock
from tests.s3 import S3Server


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Dialect:
    if request.param == "sqlite":
        return Sqlite(tmp_path / "test.db")
    return Postgres(request.getfixturevalue("postgres_url"), CorrectedClock(clock), server="0-server")


@pytest.fixture
async def db(dialect: Dialect, clock: HandClock) -> AsyncIterator[Database]:
    def people(tx: Tx) -> None:
        tx.change(insert(users).values(id="0-user", name="ada", is_admin=False, token_hash="x", created_at=NOW))
        tx.change(insert(projects).values(id="0-project", name="main", created_at=NOW))

    database = Database(dialect, clock)
    database.open()
    await database.write(people)
    yield database
    await database.close()


@pytest.fixture
def s3_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.credentials.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3: S3Server, s3_credentials: None) -> Iterator[Bucket]:
    made = Bucket(s3.create(), "team/", s3.url)
    yield made
    made.close()


HERE_ON_SALE = Market.of([HERE])


class Shop(Catalog):
    """Has this machine on sale."""

    def snapshot(self) -> Market:
        return HERE_ON_SALE.without_backends(self.hidden)

    async def market(self) -> Market:
        return self.snapshot()


def context_on(db: Database, clock: Clock, folder: Path) -> Context:
    """What operations have at hand, with all else in a folder."""
    backends = BackendRegistry({})
    return Context(
        db,
        RandomIds(clock),
        Shop(backends, clock, RandomIds(clock)),
        Reconciler(db, backends, clock, Leases(db, clock, "0-server", "here", alone=True)),
        lambda run_id: None,
        backends,
        Drivers(folder),
        LogFiles(folder / "logs"),
        BlobFiles(folder / "blobs"),
        Signals(),
        Vault([TEST_KEY]),
    )


@pytest.fixture
def context(db: Database, clock: HandClock, tmp_path: Path) -> Context:
    return context_on(db, clock, tmp_path)
