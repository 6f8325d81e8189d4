"""Users, projects and who belongs where."""

import hashlib
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select, update

from dstack.kit.ids import Ids
from dstack.store.db import Tx
from dstack.store.tables import members, projects, users


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
_PROJECT = select(projects).where(projects.c.name == bindparam("name"))
_ROLE = select(members.c.role).where(
    members.c.project_id == bindparam("project_id"), members.c.user_id == bindparam("user_id")
)


def hash_of(token: str) -> str:
    """What is stored of a token. Tokens are long and random, so that a plain hash cannot be searched."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_by_token(tx: Tx, token: str) -> User | None:
    """The user whose token this is. Compared by hash, so that timing tells nothing about the token."""
    row = tx.conn.execute(_BY_TOKEN, {"token_hash": hash_of(token)}).one_or_none()
    return None if row is None else User(row.id, row.name, row.is_admin)


def find_project(tx: Tx, name: str) -> Project | None:
    """The project of this name."""
    row = tx.conn.execute(_PROJECT, {"name": name}).one_or_none()
    return None if row is None else Project(row.id, row.name)


def find_role(tx: Tx, project_id: str, user_id: str) -> str | None:
    """What the user is in the project: `admin`, `manager` or `user`; None for a stranger."""
    return tx.conn.execute(_ROLE, {"project_id": project_id, "user_id": user_id}).scalar()


def names_of(tx: Tx) -> dict[str, str]:
    """Every user's and project's name by id."""
    rows = tx.conn.execute(select(users.c.id, users.c.name).union_all(select(projects.c.id, projects.c.name)))
    return {row.id: row.name for row in rows}


def ensure_admin(tx: Tx, ids: Ids, token: str) -> None:
    """At the first start: the user `admin`, the project `main`, and a token to come in by. Later: the token only."""
    now = tx.clock.now()
    admin_id = tx.conn.execute(select(users.c.id).where(users.c.name == "admin")).scalar()
    if admin_id is not None:
        tx.conn.execute(update(users).where(users.c.id == admin_id).values(token_hash=hash_of(token)))
        return
    admin_id, project_id = ids.new_id(), ids.new_id()
    tx.conn.execute(
        insert(users).values(id=admin_id, name="admin", is_admin=True, token_hash=hash_of(token), created_at=now)
    )
    tx.conn.execute(insert(projects).values(id=project_id, name="main", created_at=now))
    tx.conn.execute(insert(members).values(project_id=project_id, user_id=admin_id, role="admin"))
