"""The revisions of runs: each spec that a run has had, with its time and its author. A revision never changes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, select

from dstack.domain.objects import Revision, Run
from dstack.errors import ResourceNotExistsError
from dstack.store.tables import revisions
from dstack.store.tx import Tx

_FIND = select(revisions.c.spec).where(
    revisions.c.run_id == bindparam("run_id"), revisions.c.number == bindparam("number")
)

_MADE_AT = select(revisions.c.created_at).where(
    revisions.c.run_id == bindparam("run_id"), revisions.c.number == bindparam("number")
)


def add(tx: Tx, run: Run, user_id: str) -> None:
    """Write the current revision of a run, which is new."""
    about = {"run_id": run.id, "number": run.revision, "spec": run.spec}
    tx.add(revisions, {**about, "created_at": tx.clock.now(), "user_id": user_id})


def find(tx: Tx, run: Run, number: int) -> Revision:
    """The revision of a run with this number.

    Raises:
        ResourceNotExistsError: it is missing.
    """
    if number == run.revision:
        return run.current
    spec: Mapping[str, Any] | None = tx.select(_FIND, {"run_id": run.id, "number": number}).scalar()
    if spec is None:
        raise ResourceNotExistsError(f"The run `{run.name}` has no revision {number}")
    return Revision(run.id, number, spec)


def made_at(tx: Tx, run: Run) -> datetime | None:
    """Return the time of the current revision of a run; None if it is missing."""
    at: datetime | None = tx.select(_MADE_AT, {"run_id": run.id, "number": run.revision}).scalar()
    return at


def forget(tx: Tx, run_id: str) -> None:
    """Delete the revisions of a run."""
    tx.change(delete(revisions).where(revisions.c.run_id == run_id))
