"""The parts that every operation uses."""

from collections.abc import Callable
from dataclasses import dataclass

from dstack.backends.threads import Backends
from dstack.blobs.base import BlobStore
from dstack.engine.catalog import Catalog
from dstack.engine.reconciler import Reconciler
from dstack.errors import ResourceNotExistsError
from dstack.kit.ids import Ids
from dstack.kit.signals import Signals
from dstack.kit.vault import Vault
from dstack.logs.base import LogStore
from dstack.store import users
from dstack.store.db import Database
from dstack.store.tx import Tx
from dstack.store.users import Project, User


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the server that operations use."""

    db: Database
    ids: Ids
    catalog: Catalog
    reconciler: Reconciler
    why_waiting: Callable[[str], str | None]
    """Return why a run waits in the queue, if known."""
    backends: Backends
    logs: LogStore
    blobs: BlobStore
    signals: Signals
    vault: Vault


@dataclass(frozen=True, slots=True)
class Caller:
    """The user of a call, and the project."""

    user: User
    project: Project


def caller_in(tx: Tx, user: User, project_name: str) -> Caller:
    """The user in the project.

    Raises:
        ResourceNotExistsError: there is no such project, or the user may not know of it.
    """
    project, role = users.find_membership(tx, project_name, user.id) or (None, None)
    if project is None or (role is None and not user.is_admin):
        raise ResourceNotExistsError(
            f"There is no project `{project_name}`",
            hint="Check `project` in `~/.dstack/config.yml` or `DSTACK_PROJECT`",
        )
    return Caller(user, project)
