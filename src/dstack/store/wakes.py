"""The work queue: which objects deserve a look, and when. A wake is a hint: losing one costs time, not correctness.

A wake is taken by deleting it in the transaction that does the looking, so a crash puts it back, and no lease is
needed.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, func, select

from dstack.store.tables import wakes
from dstack.store.tx import Tx

NOW = timedelta(0)
TAKEN_AT_ONCE_MAX = 500

_TAKE = delete(wakes).where(wakes.c.kind == bindparam("of_kind"), wakes.c.id == bindparam("of_id"))


_DUE = select(wakes).where(wakes.c.due_at <= bindparam("now")).order_by(wakes.c.due_at).limit(TAKEN_AT_ONCE_MAX)
_NEXT_DUE = select(func.min(wakes.c.due_at))


def add(tx: Tx, kind: str, id: str, *, after: timedelta = NOW) -> None:
    """Have an object looked at, at the latest `after` from now; an earlier wake stays."""
    at = tx.clock.now() + after
    tx.changes += 1
    tx.wakes[kind, id] = min(at, tx.wakes.get((kind, id), at))


def take_due(tx: Tx) -> datetime | None:
    """Move what is due from the table into this transaction. Returns when there will be more; None for never."""
    due = tx.select(_DUE, {"now": tx.clock.now()}).all()
    for row in due:
        tx.wakes[row.kind, row.id] = row.due_at
    if due:
        tx.change(_TAKE, [{"of_kind": row.kind, "of_id": row.id} for row in due])
    return tx.select(_NEXT_DUE).scalar()


def everything(tx: Tx) -> list[tuple[str, str]]:
    """Whatever is unfinished, by kind and id; the queue last."""
    found: list[tuple[str, str]] = []
    for rows in tx.rows.values():
        found += [(rows.kind, row.id) for row in tx.select(rows.unfinished)]
    return [*found, ("scheduler", "placement")]


def add_many(tx: Tx, whom: Iterable[tuple[str, str]]) -> None:
    """Have some objects looked at now."""
    for kind, id in whom:
        add(tx, kind, id)
