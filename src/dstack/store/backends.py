"""The rows of backends. Their credentials are ciphertext, and their configurations have marks in place of them."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from dstack.domain.backends import BackendRecord
from dstack.domain.objects import Instance
from dstack.store import commits, objects
from dstack.store.tables import backends, instances
from dstack.store.tx import Tx

CHANGED = "backends"
"""The key of these rows in `Signals`, on all servers of the database."""
CERTAIN_AFTER = timedelta(minutes=15)
"""The time after a backend's last machine has ended, in which a launch that was given up may still create one. The
reconciler ends such a machine."""
_SELLING = "selling", ""
"""The key in `Tx.known` of the ids of rows that sell machines."""


def every(tx: Tx) -> list[BackendRecord]:
    """Return all rows, in the order of their names."""
    return [_record_of(row) for row in tx.select(select(backends).order_by(backends.c.name, backends.c.id))]


def usable_by(tx: Tx, project_id: str | None) -> list[BackendRecord]:
    """Return the rows that a project may use: its own and those for all projects. None asks for the latter alone."""
    return [one for one in every(tx) if one.project_id in (None, project_id)]


def names_usable_by(tx: Tx, project_id: str) -> frozenset[str]:
    """Return the names of the rows that a project may use."""
    return frozenset(one.name for one in usable_by(tx, project_id))


def find(tx: Tx, id: str) -> BackendRecord | None:
    """Return a row."""
    row = tx.select(select(backends).where(backends.c.id == id)).one_or_none()
    return None if row is None else _record_of(row)


def put(tx: Tx, record: BackendRecord) -> None:
    """Write a new row, or the new contents of a row."""
    values = {name: getattr(record, name) for name in _COLUMNS}
    now = tx.clock.now()
    if find(tx, record.id) is None:
        tx.change(insert(backends).values(**values, id=record.id, created_at=now, updated_at=now))
    else:
        tx.change(update(backends).where(backends.c.id == record.id).values(**values, updated_at=now))
    _changed(tx)


def machines_of(tx: Tx, id: str) -> list[Instance]:
    """Return the instances of a backend whose machines may exist."""
    return [one for one in objects.live_instances(tx) if one.offer.backend_id == id]


def drain(tx: Tx, id: str) -> None:
    """Let the machines of a backend take no more jobs, and end once they have none."""
    for instance in machines_of(tx, id):
        commits.record(tx, replace(instance, drain_asked_at=tx.clock.now()))


def stop_draining(tx: Tx, id: str) -> None:
    """Let the machines of a backend take jobs again."""
    for instance in machines_of(tx, id):
        if instance.drain_asked_at is not None:
            commits.record(tx, replace(instance, drain_asked_at=None))


def is_over(tx: Tx, id: str) -> bool:
    """Return whether no machine of a backend can be left, as far as is on record."""
    if machines_of(tx, id):
        return False
    query = select(func.max(instances.c.finished_at)).where(instances.c.backend == id)
    ended: datetime | None = tx.select(query).scalar()
    return ended is None or tx.clock.now() - ended >= CERTAIN_AFTER


def remove_if_over(tx: Tx, id: str) -> bool:
    """Delete the row of a backend that is being removed, once no machine can be left.

    Returns:
        whether there is no such row any more.
    """
    record = find(tx, id)
    if record is not None and record.closing_since is not None and is_over(tx, id):
        remove(tx, id)
        return True
    return record is None


def remove(tx: Tx, id: str) -> None:
    """Delete the row of a backend."""
    tx.change(delete(backends).where(backends.c.id == id))
    _changed(tx)


def sells(tx: Tx, id: str) -> bool:
    """Return whether a machine may be bought from a backend now. A backend without a row sells while it is known."""
    if not id[:1].isdigit():
        return True
    known: frozenset[str] | None = tx.known.get(_SELLING)
    if known is None:
        query = select(backends.c.id).where(backends.c.closing_since.is_(None))
        known = tx.known[_SELLING] = frozenset(tx.select(query).scalars())
    return id in known


def _changed(tx: Tx) -> None:
    tx.known.pop(_SELLING, None)
    tx.notices.changed.add(CHANGED)


_COLUMNS = ("project_id", "type", "name", "config", "sealed", "closing_since")


def _record_of(row: Row[Any]) -> BackendRecord:
    return BackendRecord(**row._mapping)
