"""Users, projects and who belongs where."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select, union_all, update

from dstack.kit.ids import Ids
from dstack.store.tables import members, projects, users
from dstack.store.tx import Tx


@dataclass(frozen=True, slots=True)
class User:
    """Someone who may use the server."""

    id: str
    name: str
    is_admin: bool


@dataclass(frozen=True, slots=True)
class Project:
    """What separates the runs of one team from another's."""

    id: str
    name: str


_BY_TOKEN = select(users).where(users.c.token_hash == bindparam("token_hash"))
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
    """What is stored of a token. Tokens are long and random, so that a plain hash cannot be searched."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_by_token(tx: Tx, token: str) -> User | None:
    """The user whose token this is. Compared by hash, so that timing tells nothing about the token."""
    row = tx.peek(_BY_TOKEN, {"token_hash": hash_of(token)}).one_or_none()
    return None if row is None else User(row.id, row.name, row.is_admin)


def find_membership(tx: Tx, project_name: str, user_id: str) -> tuple[Project, str | None] | None:
    """The project, and what the user is in it: `admin`, `manager` or `user`; None for a stranger."""
    row = tx.peek(_MEMBERSHIP, {"project_name": project_name, "user_id": user_id}).one_or_none()
    return None if row is None else (Project(row.id, row.name), row.role)


def projects_of(tx: Tx, user: User) -> list[tuple[str, str]]:
    """The names of the projects that the user may use, and what the user is in each. An admin may use all."""
    mine = (members.c.project_id == projects.c.id) & (members.c.user_id == user.id)
    rows = tx.select(select(projects.c.name, members.c.role).outerjoin(members, mine).order_by(projects.c.name))
    return [(row.name, row.role or "admin") for row in rows if row.role is not None or user.is_admin]


def names_of(tx: Tx, ids: Collection[str]) -> dict[str, str]:
    """The names of some users and projects, by id."""
    names: dict[str, str] = {id: tx.known["name", id] for id in ids if ("name", id) in tx.known}
    asked = [id for id in ids if id not in names]
    if asked:
        for row in tx.peek(_NAMES, {"ids": asked}):
            names[row.id] = tx.known["name", row.id] = row.name
    return names


def ensure_admin(tx: Tx, ids: Ids, token: str) -> None:
    """At the first start: the user `admin`, the project `main`, and a token to come in by. Later: the token only."""
    now = tx.clock.now()
    admin_id = tx.select(select(users.c.id).where(users.c.name == "admin")).scalar()
    if admin_id is not None:
        tx.change(update(users).where(users.c.id == admin_id).values(token_hash=hash_of(token)))
        return
    admin_id, project_id = ids.new_id(), ids.new_id()
    tx.change(insert(users).values(id=admin_id, name="admin", is_admin=True, token_hash=hash_of(token), created_at=now))
    tx.change(insert(projects).values(id=project_id, name="main", created_at=now))
    tx.change(insert(members).values(project_id=project_id, user_id=admin_id, role="admin"))
