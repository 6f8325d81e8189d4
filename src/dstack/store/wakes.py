"""The work queue: which objects deserve a look, and when. A wake is a hint: losing one costs time, not correctness.

A wake is taken by deleting it in the transaction that does the looking, so a crash puts it back, and no lease is
needed.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.sqlite import insert

from dstack.store.db import Tx
from dstack.store.tables import instances, jobs, runs, wakes


def add(tx: Tx, kind: str, id: str, *, after: timedelta = timedelta(0)) -> None:
    """Have an object looked at, at the latest `after` from now; an earlier wake stays."""
    statement = insert(wakes).values(kind=kind, id=id, due_at=tx.clock.now() + after)
    keep_earlier = func.min(wakes.c.due_at, statement.excluded.due_at)
    tx.conn.execute(statement.on_conflict_do_update(index_elements=["kind", "id"], set_={"due_at": keep_earlier}))
    tx.notices.wakes = True


def take_due(tx: Tx, limit: int) -> list[tuple[str, str]]:
    """Take up to `limit` wakes whose time has come, the longest due first."""
    query = (
        select(wakes.c.kind, wakes.c.id).where(wakes.c.due_at <= tx.clock.now()).order_by(wakes.c.due_at).limit(limit)
    )
    due = [(row.kind, row.id) for row in tx.conn.execute(query)]
    for kind, id in due:
        tx.conn.execute(delete(wakes).where(wakes.c.kind == kind, wakes.c.id == id))
    return due


def next_due(tx: Tx) -> datetime | None:
    """When the next wake is due; None when nothing waits."""
    return tx.conn.execute(select(func.min(wakes.c.due_at))).scalar()


def add_all(tx: Tx) -> None:
    """The sweep: everything unfinished deserves a look."""
    add(tx, "scheduler", "placement")
    for kind, table in (("run", runs), ("job", jobs), ("instance", instances)):
        for row in tx.conn.execute(select(table.c.id).where(table.c.finished_at.is_(None))).all():
            add(tx, kind, row.id)
