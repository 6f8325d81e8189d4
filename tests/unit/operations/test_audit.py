"""What an audit says: all that answers is told, whatever one backend does."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dstack.backends import Drivers
from dstack.backends.base import Backend, Machine, MachineState
from dstack.backends.registry import BackendRegistry
from dstack.blobs.files import BlobFiles
from dstack.domain.objects import Next
from dstack.engine.catalog import Catalog
from dstack.engine.leases import Leases
from dstack.engine.lifecycles import check_move
from dstack.engine.reconciler import Reconciler
from dstack.errors import BackendUnavailable, ForbiddenError
from dstack.kit.ids import RandomIds
from dstack.kit.signals import Signals
from dstack.kit.vault import Vault
from dstack.logs.files import LogFiles
from dstack.operations import audit
from dstack.operations.context import Context
from dstack.protocol.statuses import InstanceStatus
from dstack.store import commits
from dstack.store.db import Database
from dstack.store.users import User
from dstack.testing.world import TEST_KEY
from tests.making import CLOUD, NOW, BareBackend, HandClock, instance

ADMIN = User(id="0-user", name="ada", is_admin=True)
GUEST = User(id="1-user", name="bob", is_admin=False)


class Cloud(BareBackend):
    """Answers as it is told to."""

    def __init__(self, answer: Callable[[], list[Machine]]) -> None:
        self.answer = answer

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return self.answer()


@pytest.fixture
def context_with(db: Database, clock: HandClock, tmp_path: Path) -> Callable[..., Context]:
    def make(**drivers: Backend) -> Context:
        backends = BackendRegistry(drivers)
        return Context(
            db,
            RandomIds(clock),
            Catalog(backends, clock, RandomIds(clock)),
            Reconciler(db, backends, clock, Leases(db, clock, "0-server", "here", alone=True)),
            lambda run_id: None,
            backends,
            Drivers(tmp_path),
            LogFiles(tmp_path / "logs"),
            BlobFiles(tmp_path / "blobs"),
            Signals(),
            Vault([TEST_KEY]),
        )

    return make


@pytest.fixture
def hanging() -> Iterator[Cloud]:
    """A backend that answers only when the test is over."""
    over = threading.Event()

    def wait() -> list[Machine]:
        over.wait()
        return []

    yield Cloud(wait)
    over.set()


def fail_with(error: Exception) -> Callable[[], list[Machine]]:
    def fail() -> list[Machine]:
        raise error

    return fail


async def test_backends_that_do_not_answer_are_named_and_the_others_are_shown(
    context_with: Callable[..., Context], hanging: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ANSWER_WITHIN_S", 0.2)
    away = Cloud(fail_with(BackendUnavailable("The cloud does not answer just now")))
    broken = Cloud(fail_with(KeyError("a bug of the driver")))
    aws = Cloud(lambda: [Machine("m-9", "9-instance", MachineState.RUNNING)])
    found = await audit.audit(context_with(aws=aws, gcp=hanging, oci=away, azure=broken), ADMIN)
    assert found.silent == ["azure", "gcp", "oci"]
    assert [(one.backend, one.machine_id, one.state) for one in found.machines] == [("aws", "m-9", "orphan")]


async def test_what_an_orphan_costs_is_told_where_its_instance_is_still_on_record(
    context_with: Callable[..., Context], db: Database
) -> None:
    over = instance(version=0, offer=CLOUD, status=InstanceStatus.TERMINATED, finished_at=NOW)
    await db.write(lambda tx: commits.commit(tx, Next((over,)), check_move))
    aws = Cloud(
        lambda: [Machine("m-1", over.id, MachineState.RUNNING), Machine("m-9", "9-instance", MachineState.RUNNING)]
    )
    found = await audit.audit(context_with(aws=aws), ADMIN)
    assert [(one.machine_id, one.state, one.price) for one in found.machines] == [
        ("m-1", "orphan", CLOUD.price),
        ("m-9", "orphan", None),
    ]


async def test_only_an_admin_may_see_the_machines_of_all_projects(context_with: Callable[..., Context]) -> None:
    with pytest.raises(ForbiddenError):
        await audit.audit(context_with(), GUEST)
