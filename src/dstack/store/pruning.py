"""Forgets what has been of no use for long, a little at a time: nobody waits for it."""

from datetime import datetime

from sqlalchemy import ColumnElement, Select, Table, and_, delete, or_, select, tuple_

from dstack.store.tables import events, intents, jobs, metrics, runs, traffic
from dstack.store.tx import Tx

ROWS_AT_ONCE = 1000


def prune_intents(tx: Tx, before: datetime) -> int:
    """Forget what was done, before then, for objects that have ended since. Returns how many rows that were."""
    is_done = and_(intents.c.state != "pending", intents.c.created_at < before)
    ended = [_of_ended(rows.kind, rows.table) for rows in tx.rows.values()]
    is_of_nobody = or_(intents.c.object_kind.not_in([rows.kind for rows in tx.rows.values()]), *ended)
    return _prune(tx, intents, select(*intents.primary_key.columns).where(is_done, is_of_nobody))


def prune_events(tx: Tx, before: datetime) -> int:
    """Forget history from before then. Returns how many rows that were."""
    return _prune(tx, events, select(events.c.seq).where(events.c.at < before))


def prune_metrics(tx: Tx, before: datetime) -> int:
    """Forget what jobs used that ended before then. Returns how many rows that were."""
    of_ended = select(jobs.c.id).where(jobs.c.finished_at < before)
    return _prune(tx, metrics, select(*metrics.primary_key.columns).where(metrics.c.job_id.in_(of_ended)))


def prune_traffic(tx: Tx, before: datetime) -> int:
    """Forget the requests of services that ended before then. Returns how many rows that were."""
    of_ended = select(runs.c.id).where(runs.c.finished_at < before)
    return _prune(tx, traffic, select(*traffic.primary_key.columns).where(traffic.c.run_id.in_(of_ended)))


def _of_ended(kind: str, table: Table) -> ColumnElement[bool]:
    ended = select(table.c.id).where(table.c.finished_at.is_not(None))
    return and_(intents.c.object_kind == kind, intents.c.object_id.in_(ended))


def _prune(tx: Tx, table: Table, useless: Select[*tuple[object, ...]]) -> int:
    keys = [tuple(row) for row in tx.select(useless.limit(ROWS_AT_ONCE))]
    if keys:
        tx.change(delete(table).where(tuple_(*table.primary_key.columns).in_(keys)))
    return len(keys)
