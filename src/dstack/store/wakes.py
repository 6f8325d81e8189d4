"""The work queue: which objects deserve a look, and when. A wake is a hint: losing one costs time, not correctness.

A wake is taken by deleting it in the transaction that does the looking, so a crash puts it back, and no lease is
needed.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select

from dstack.store.db import Tx
from dstack.store.tables import instances, jobs, runs, wakes

NOW = timedelta(0)
TAKEN_AT_ONCE_MAX = 500


def add(tx: Tx, kind: str, id: str, *, after: timedelta = NOW) -> None:
    """Have an object looked at, at the latest `after` from now; an earlier wake stays."""
    at = tx.clock.now() + after
    tx.wakes[kind, id] = min(at, tx.wakes.get((kind, id), at))


def take_due(tx: Tx) -> datetime | None:
    """Move what is due from the table into this transaction. Returns when there will be more; None for never."""
    query = select(wakes).where(wakes.c.due_at <= tx.clock.now()).order_by(wakes.c.due_at).limit(TAKEN_AT_ONCE_MAX)
    for row in tx.conn.execute(query).all():
        tx.wakes[row.kind, row.id] = row.due_at
        tx.conn.execute(delete(wakes).where(wakes.c.kind == row.kind, wakes.c.id == row.id))
    return tx.conn.execute(select(func.min(wakes.c.due_at))).scalar()


def add_all(tx: Tx) -> None:
    """The sweep: everything unfinished deserves a look."""
    add(tx, "scheduler", "placement")
    for kind, table in (("run", runs), ("job", jobs), ("instance", instances)):
        for row in tx.conn.execute(select(table.c.id).where(table.c.finished_at.is_(None))).all():
            add(tx, kind, row.id)
