"""What operations have at hand: a real database, and one machine on sale."""

from pathlib import Path

import pytest

from dstack.backends.threads import Backends
from dstack.blobs.files import BlobFiles
from dstack.domain.offers import Offer
from dstack.engine.catalog import Catalog
from dstack.engine.leases import Leases
from dstack.engine.reconciler import Reconciler
from dstack.kit.ids import RandomIds
from dstack.kit.signals import Signals
from dstack.kit.vault import Vault
from dstack.logs.files import LogFiles
from dstack.operations.context import Context
from dstack.store.db import Database
from dstack.store.users import User
from dstack.testing.world import TEST_KEY
from tests.making import HERE, HandClock

ADA = User(id="0-user", name="ada", is_admin=True)


class Shop(Catalog):
    """Has this machine on sale."""

    async def offers(self) -> list[Offer]:
        return [HERE]


@pytest.fixture
def context(db: Database, clock: HandClock, tmp_path: Path) -> Context:
    backends = Backends({})
    return Context(
        db,
        RandomIds(clock),
        Shop(backends, clock),
        Reconciler(db, backends, clock, Leases(db, clock, "0-server", "here", alone=True)),
        lambda run_id: None,
        backends,
        LogFiles(tmp_path / "logs"),
        BlobFiles(tmp_path / "blobs"),
        Signals(),
        Vault([TEST_KEY]),
    )
