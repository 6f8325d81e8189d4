"""The parts that every operation uses."""

from collections.abc import Callable
from dataclasses import dataclass

from dstack.backends import Drivers
from dstack.backends.registry import BackendRegistry
from dstack.blobs.base import BlobStore
from dstack.domain.roles import ALLOWED, OF_EVERYONE, OF_SERVER_ADMINS
from dstack.engine.catalog import Catalog
from dstack.engine.reconciler import Reconciler
from dstack.errors import ForbiddenError, ResourceNotExistsError, UnauthorizedError
from dstack.kit.ids import Ids, derived_id
from dstack.kit.signals import Signals
from dstack.kit.vault import Vault
from dstack.logs.base import LogStore
from dstack.protocol.actions import Action as Action  # each operation names its own
from dstack.protocol.actions import Role
from dstack.store import events, users
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
    backends: BackendRegistry
    drivers: Drivers
    logs: LogStore
    blobs: BlobStore
    signals: Signals
    vault: Vault
    is_local_by_default: bool = False
    """Whether runs may use the server's own machine only because no setting decides it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The user of a call, the project, and the user's role in it."""

    user: User
    project: Project
    role: Role


def authorize(tx: Tx, user: User, project_name: str, action: Action) -> Caller:
    """Return the caller in a project. This is the only way to a project's id.

    It runs in the transaction of the work itself, so no role or token is older than the work.

    Raises:
        UnauthorizedError: the token of the request is no longer valid.
        ResourceNotExistsError: the project is missing, or the user may not know of it.
        ForbiddenError: the user's role does not allow the action.
    """
    user = _now(tx, user)
    project, known = users.find_membership(tx, project_name, user.id) or (None, None)
    role = Role.ADMIN if user.is_admin else known and Role(known)
    if project is None or not role:
        raise ResourceNotExistsError(
            f"There is no project `{project_name}`",
            hint="Check `project` in `~/.dstack/config.yml` or `DSTACK_PROJECT`",
        )
    if role not in ALLOWED[action]:
        allowed = " or ".join(f"`{one}`" for one in Role if one in ALLOWED[action])
        raise ForbiddenError(
            f"Your role in the project `{project_name}` is `{role}`; to {action} needs the role {allowed}",
            hint=f"Ask an admin of the project: `dstack project members --project {project_name}`",
        )
    return Caller(user, project, role)


def authorize_on_server(tx: Tx, user: User, action: Action) -> User:
    """Return the caller as it is now, if it may do an action that concerns no project.

    Raises:
        UnauthorizedError: the token of the request is no longer valid.
        ForbiddenError: the action is for admins of the server.
    """
    user = _now(tx, user)
    if action not in OF_EVERYONE and not (user.is_admin and action in OF_SERVER_ADMINS):
        raise ForbiddenError(f"Only an admin of the server may {action}", hint="Ask an admin of the server")
    return user


def record_change(tx: Tx, user: User, kind: str, what: str, project: Project | None = None) -> None:
    """Write a line of history about a change of users, tokens, projects, members or secrets. It has no value of any.

    Args:
        kind: the object and the event, such as `secret.set`.
        what: the rest of the sentence whose subject is the user.
        project: the project whose members see the line. Without one, it is for admins of the server.
    """
    project_id = None if project is None else project.id
    events.add_line(tx, actor=f"user {user.name}", kind=kind, message=f"{user.name} {what}", project_id=project_id)


def creation_id(context: Context, user: User, key: str | None, *what: str) -> str:
    """Return the id of a creation. A caller's requests with one idempotency key have one id, so a repeat is recognized.

    Args:
        key: the idempotency key. None: the requests of other calls differ, but a commit that is done again does not.
        what: the kind and the name of the new object.
    """
    return derived_id(user.id, key or context.ids.new_id(), *what)


def _now(tx: Tx, user: User) -> User:
    """Return the caller as it is now: the edge remembers a token and its user for some seconds."""
    found = users.find_again(tx, user)
    if found is None:
        raise UnauthorizedError("The token of this request was deleted or has expired")
    return found
