"""Secrets of projects and credentials of repos, as ciphertext."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select

from dstack.store.tables import repos, secrets
from dstack.store.tx import Tx


def put_secret(tx: Tx, project_id: str, name: str, sealed: str) -> None:
    """Keep a secret, in place of an earlier one of that name."""
    delete_secret(tx, project_id, name)
    tx.change(insert(secrets).values(project_id=project_id, name=name, sealed=sealed, updated_at=tx.clock.now()))


def delete_secret(tx: Tx, project_id: str, name: str) -> None:
    """Forget a secret, if there is one."""
    tx.change(delete(secrets).where(secrets.c.project_id == project_id, secrets.c.name == name))


def list_secrets(tx: Tx, project_id: str) -> list[tuple[str, datetime]]:
    """The names of a project's secrets, and when each was last set."""
    query = select(secrets.c.name, secrets.c.updated_at).where(secrets.c.project_id == project_id)
    return [(row.name, row.updated_at) for row in tx.select(query.order_by(secrets.c.name))]


def sealed_secrets(tx: Tx, project_id: str, names: Collection[str]) -> dict[str, str]:
    """Those of the secrets that exist, by name, as ciphertext."""
    query = select(secrets.c.name, secrets.c.sealed).where(secrets.c.project_id == project_id)
    return {row.name: row.sealed for row in tx.select(query.where(secrets.c.name.in_(names)))}


@dataclass(frozen=True, slots=True)
class Repo:
    """A repo that a user has initialized in a project."""

    id: str
    kind: str
    """`local`, `remote` or `virtual`."""
    url: str | None
    sealed: str | None
    """The user's credentials for it, as ciphertext of JSON; None where it needs none."""


def put_repo(tx: Tx, project_id: str, user_id: str, repo: Repo) -> None:
    """Keep a user's repo, in place of what was known of it."""
    tx.change(delete(repos).where(repos.c.project_id == project_id, repos.c.user_id == user_id, repos.c.id == repo.id))
    values = {"id": repo.id, "kind": repo.kind, "url": repo.url, "sealed": repo.sealed}
    tx.change(insert(repos).values(project_id=project_id, user_id=user_id, updated_at=tx.clock.now(), **values))


def find_repo(tx: Tx, project_id: str, user_id: str, id: str) -> Repo | None:
    """The user's repo of this id."""
    query = select(repos).where(repos.c.project_id == project_id, repos.c.user_id == user_id, repos.c.id == id)
    row = tx.select(query).one_or_none()
    return None if row is None else Repo(row.id, row.kind, row.url, row.sealed)


def list_repos(tx: Tx, project_id: str, user_id: str) -> list[Repo]:
    """All repos that the user has initialized."""
    query = select(repos).where(repos.c.project_id == project_id, repos.c.user_id == user_id).order_by(repos.c.id)
    return [Repo(row.id, row.kind, row.url, row.sealed) for row in tx.select(query)]
