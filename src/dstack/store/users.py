"""Users and their tokens, projects and their members."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, delete, func, insert, select, union_all, update

from dstack.errors import ConfigurationError
from dstack.kit.ids import Ids
from dstack.protocol.proxy import EVERY_PROJECT
from dstack.store.events import add_line
from dstack.store.tables import events, instances, members, projects, repos, secrets, tokens, users
from dstack.store.tx import Tx

_OF_PROJECT = (members, secrets, repos, events)
FIRST_ADMIN = "admin"
SERVER_TOKEN = "server"
"""The name of the first admin's token that the server itself makes or gets by its environment."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the server, as the caller of a request."""

    id: str
    name: str
    is_admin: bool
    """Whether the user is an admin of the server."""
    token_id: str | None = None
    """The token of the request; None where the server itself acts for the user."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user as the list of users shows it."""

    id: str
    name: str
    is_admin: bool
    created_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Token:
    """A token, without its value."""

    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Project:
    """A group of runs, with its members and secrets."""

    id: str
    name: str


_VALID = tokens.c.expires_at.is_(None) | (tokens.c.expires_at > bindparam("now"))
_WITH_TOKEN = (
    select(users.c.id, users.c.name, users.c.is_admin, tokens.c.id.label("token_id"))
    .join(tokens, tokens.c.user_id == users.c.id)
    .where(users.c.deleted_at.is_(None), _VALID)
)
_BY_HASH = _WITH_TOKEN.where(tokens.c.hash == bindparam("hash"))
_BY_ID = _WITH_TOKEN.where(tokens.c.id == bindparam("token_id"))
_HOLDER = (
    select(tokens.c.user_id, tokens.c.name, users.c.name.label("user"))
    .join(users, users.c.id == tokens.c.user_id)
    .where(tokens.c.hash == bindparam("hash"))
)
_MEMBERSHIP = (
    select(projects.c.id, projects.c.name, members.c.role)
    .outerjoin(members, (members.c.project_id == projects.c.id) & (members.c.user_id == bindparam("user_id")))
    .where(projects.c.name == bindparam("project_name"))
)
_NAMES = union_all(
    select(users.c.id, users.c.name).where(users.c.id.in_(bindparam("ids", expanding=True))),
    select(projects.c.id, projects.c.name).where(projects.c.id.in_(bindparam("ids", expanding=True))),
)


def hash_of(token: str) -> str:
    """Return the form in which a token is stored. Tokens are long and random, so a plain hash cannot be searched."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_by_token(tx: Tx, token: str) -> User | None:
    """Return the user of a valid token. Compared by hash, so that timing reveals nothing about the token."""
    row = tx.peek(_BY_HASH, {"hash": hash_of(token), "now": tx.clock.now()}).one_or_none()
    return None if row is None else User(**row._mapping)


def find_again(tx: Tx, user: User) -> User | None:
    """Return the caller of a request as it is now; None if the request's token is no longer valid."""
    if user.token_id is None:
        return user
    row = tx.peek(_BY_ID, {"token_id": user.token_id, "now": tx.clock.now()}).one_or_none()
    return None if row is None else User(**row._mapping)


def callers(tx: Tx) -> dict[str, tuple[str, ...]]:
    """Return all valid tokens by hash, each with the names of the projects of its user; `*` for an admin's."""
    query = (
        select(tokens.c.hash, users.c.is_admin, projects.c.name)
        .join(users, tokens.c.user_id == users.c.id)
        .outerjoin(members, members.c.user_id == users.c.id)
        .outerjoin(projects, projects.c.id == members.c.project_id)
        .where(users.c.deleted_at.is_(None), _VALID)
        .order_by(tokens.c.hash, projects.c.name)
    )
    found: dict[str, tuple[str, ...]] = {}
    for row in tx.select(query, {"now": tx.clock.now()}):
        if row.is_admin:
            found[row.hash] = (EVERY_PROJECT,)
        elif row.name is not None:
            found[row.hash] = (*found.get(row.hash, ()), row.name)
    return found


def find_membership(tx: Tx, project_name: str, user_id: str) -> tuple[Project, str | None] | None:
    """Return a project, and the user's role in it: `admin`, `manager` or `user`, or None for a stranger."""
    row = tx.peek(_MEMBERSHIP, {"project_name": project_name, "user_id": user_id}).one_or_none()
    return None if row is None else (Project(row.id, row.name), row.role)


def projects_of(tx: Tx, user: User) -> list[tuple[str, str]]:
    """Return the names of the projects that the user may use, each with the user's role: an admin's in all of them."""
    mine = (members.c.project_id == projects.c.id) & (members.c.user_id == user.id)
    rows = tx.select(select(projects.c.name, members.c.role).outerjoin(members, mine).order_by(projects.c.name))
    roles = ((row.name, "admin" if user.is_admin else row.role) for row in rows)
    return [(name, role) for name, role in roles if role is not None]


def names_of(tx: Tx, ids: Collection[str]) -> dict[str, str]:
    """Return the names of some users and projects, by id."""
    names: dict[str, str] = {id: tx.known["name", id] for id in ids if ("name", id) in tx.known}
    asked = [id for id in ids if id not in names]
    if asked:
        for row in tx.peek(_NAMES, {"ids": asked}):
            names[row.id] = tx.known["name", row.id] = row.name
    return names


def list_users(tx: Tx) -> list[Account]:
    """Return all users that are not deleted, by name."""
    query = select(*(users.c[name] for name in Account.__slots__)).where(users.c.deleted_at.is_(None))
    return [Account(**row._mapping) for row in tx.select(query.order_by(users.c.name))]


def find_user(tx: Tx, name: str) -> Account | None:
    """Return the user of that name, also a deleted one."""
    query = select(*(users.c[name] for name in Account.__slots__)).where(users.c.name == name)
    row = tx.select(query).one_or_none()
    return None if row is None else Account(**row._mapping)


def count_users(tx: Tx) -> int:
    """Return the number of users that are not deleted."""
    return int(tx.select(select(func.count()).select_from(users).where(users.c.deleted_at.is_(None))).scalar_one())


def add_user(tx: Tx, id: str, name: str, *, is_admin: bool, request_id: str | None = None) -> None:
    """Add a user, or restore the deleted user of that id.

    Args:
        request_id: the id of the request that does it.
    """
    tx.change(delete(members).where(members.c.user_id == id))
    fields = {"is_admin": is_admin, "deleted_at": None, "token_hash": request_id or id}
    if tx.select(select(users.c.id).where(users.c.id == id)).scalar() is not None:
        tx.change(update(users).where(users.c.id == id).values(**fields))
        return
    tx.change(insert(users).values(id=id, name=name, created_at=tx.clock.now(), **fields))


def is_made_by(tx: Tx, user_id: str, request_id: str) -> bool:
    """Return whether a request has added or restored the user."""
    query = select(users.c.id).where(users.c.id == user_id, users.c.token_hash == request_id)
    return tx.select(query).scalar() is not None


def set_admin(tx: Tx, user_id: str, *, is_admin: bool) -> None:
    """Make a user an admin of the server, or no admin."""
    tx.change(update(users).where(users.c.id == user_id).values(is_admin=is_admin))


def delete_user(tx: Tx, user_id: str) -> None:
    """Mark a user as deleted. Deletes tokens, memberships, and credentials for repos; runs keep the user's name."""
    for table in (tokens, members, repos):
        tx.change(delete(table).where(table.c.user_id == user_id))
    tx.change(update(users).where(users.c.id == user_id).values(deleted_at=tx.clock.now(), is_admin=False))


def list_tokens(tx: Tx, user_id: str) -> list[Token]:
    """Return a user's tokens, by name, expired ones too."""
    query = select(*(tokens.c[name] for name in Token.__slots__)).where(tokens.c.user_id == user_id)
    return [Token(**row._mapping) for row in tx.select(query.order_by(tokens.c.name))]


def add_token(tx: Tx, id: str, user_id: str, name: str, value: str, expires_at: datetime | None) -> None:
    """Add a token."""
    row = {"id": id, "user_id": user_id, "name": name, "hash": hash_of(value)}
    tx.change(insert(tokens).values(**row, created_at=tx.clock.now(), expires_at=expires_at))


def delete_token(tx: Tx, user_id: str, name: str) -> None:
    """Delete a token."""
    tx.change(delete(tokens).where(tokens.c.user_id == user_id, tokens.c.name == name))


def add_project(tx: Tx, id: str, name: str, admin_id: str) -> None:
    """Add a project with its first member, an admin."""
    tx.change(insert(projects).values(id=id, name=name, created_at=tx.clock.now()))
    put_member(tx, id, admin_id, "admin")


def count_administered(tx: Tx, user_id: str) -> int:
    """Return the number of projects in which the user has the role `admin`."""
    of_user = (members.c.user_id == user_id) & (members.c.role == "admin")
    return int(tx.select(select(func.count()).select_from(members).where(of_user)).scalar_one())


def delete_project(tx: Tx, project_id: str) -> None:
    """Delete a project that has no runs any more, with its members, secrets and repos."""
    tx.change(update(instances).where(instances.c.project_id == project_id).values(project_id=None))
    for table in _OF_PROJECT:
        tx.change(delete(table).where(table.c.project_id == project_id))
    tx.change(delete(projects).where(projects.c.id == project_id))
    tx.known.pop(("name", project_id), None)


def list_members(tx: Tx, project_id: str) -> list[tuple[str, str]]:
    """Return the names of a project's members with their roles."""
    query = select(users.c.name, members.c.role).join(users, users.c.id == members.c.user_id)
    rows = tx.select(query.where(members.c.project_id == project_id).order_by(users.c.name))
    return [(row.name, row.role) for row in rows]


def put_member(tx: Tx, project_id: str, user_id: str, role: str) -> None:
    """Add a member, or change a member's role."""
    remove_member(tx, project_id, user_id)
    tx.change(insert(members).values(project_id=project_id, user_id=user_id, role=role))


def remove_member(tx: Tx, project_id: str, user_id: str) -> None:
    """Remove a member."""
    tx.change(delete(members).where(members.c.project_id == project_id, members.c.user_id == user_id))


def ensure_admin(tx: Tx, ids: Ids, token: str) -> None:
    """Create the user `admin` and the project `main` at the first start. Sets the server's own token of that user.

    Raises:
        ConfigurationError: the token is another token of a user.
    """
    known = find_user(tx, FIRST_ADMIN)
    admin_id = ids.new_id() if known is None else known.id
    if known is None:
        add_user(tx, admin_id, FIRST_ADMIN, is_admin=True)
        add_project(tx, ids.new_id(), "main", admin_id)
    elif known.deleted_at is not None:
        return
    holder = tx.select(_HOLDER, {"hash": hash_of(token)}).one_or_none()
    if holder is None:
        if known is not None:
            delete_token(tx, admin_id, SERVER_TOKEN)  # a former one; the streams that it opened end
            message = f"a start of the server replaced the token {SERVER_TOKEN} of the user {FIRST_ADMIN}"
            add_line(tx, actor="server", kind="token.created", message=message)
        add_token(tx, ids.new_id(), admin_id, SERVER_TOKEN, token, None)
    elif (holder.user_id, holder.name) != (admin_id, SERVER_TOKEN):
        raise ConfigurationError(
            f"The server's token is the token `{holder.name}` of the user `{holder.user}`",
            hint="Start the server with another `DSTACK_SERVER_ADMIN_TOKEN`",
        )
