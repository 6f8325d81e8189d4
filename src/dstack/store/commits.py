"""How runs, jobs and instances come, change and go.

`commit` is the only way an object moves: guarded by its version, along its lifecycle's table, together with its event,
its intents and the wakes of everything that may care.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeAlias

from sqlalchemy import Table, Update, bindparam, delete, insert, select, update

from dstack.domain.objects import Instance, Job, Next, Run
from dstack.errors import Conflict
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.store import events, intents, wakes
from dstack.store.db import Tx
from dstack.store.objects import JOBS_OF_RUN, JOBS_ON, KINDS, LIVE_INSTANCES, Object, find_instance, find_job, find_run
from dstack.store.rows import values_of
from dstack.store.tables import instances, jobs, runs

TABLES: dict[type[Object], Table] = {Run: runs, Job: jobs, Instance: instances}
_INSERT = {kind: insert(table) for kind, table in TABLES.items()}

Status: TypeAlias = RunStatus | JobStatus | InstanceStatus
Check: TypeAlias = Callable[[str, Status, Status], None]
"""Raises `IllegalMove` unless an object of this kind may go from one status to the other."""


def add_run(tx: Tx, run: Run, born: Sequence[Job], *, key: str | None, actor: str) -> None:
    """A new run with its jobs: queued and announced once this is committed."""
    tx.conn.execute(_INSERT[Run], {**values_of(run), "idempotency_key": key})
    for job in born:
        _insert(tx, job)
    events.add(
        tx, run, actor=actor, kind="run.submitted", message=f"{actor.removeprefix('user ')} submitted {run.name}"
    )


def commit(tx: Tx, decided: Next, check: Check, *, actor: str = "engine") -> None:
    """Write what a step said: the objects, one event for each change of status, the intents, the wakes.

    Raises:
        Conflict: an object has another version than the one that was decided on; nothing is to be committed.
        IllegalMove: the move is not in the table.
    """
    olds = [None if new.version == 0 else _old_of(tx, new) for new in decided.write]
    for new, old in zip(decided.write, olds, strict=True):
        if old is not None and old.status != new.status:
            check(KINDS[type(new)], old.status, new.status)
    for new, old in zip(decided.write, olds, strict=True):
        if old is None:
            _insert(tx, new)
        elif new != old:  # a write wakes the object: one that changes nothing would be looked at for ever
            _update(tx, new, old, actor)
    for intent in decided.do:
        intents.add(tx, intent)


def _old_of(tx: Tx, new: Object) -> Object:
    """The object as it was when it was decided on."""
    match new:
        case Run():
            old: Object | None = find_run(tx, new.id)
        case Job():
            old = find_job(tx, new.id)
        case Instance():
            old = find_instance(tx, new.id)
    if old is None or old.version != new.version:
        raise Conflict(f"{KINDS[type(new)]} {new.id} changed while it was being decided on")
    return old


def _insert(tx: Tx, born: Object) -> None:
    first: Object = replace(born, version=1)
    tx.conn.execute(_INSERT[type(first)], values_of(first))
    tx.known[KINDS[type(born)], born.id] = first
    wakes.add(tx, KINDS[type(born)], born.id)
    match born:
        case Instance():
            tx.lists.pop((LIVE_INSTANCES, ""), None)
            tx.notices.instances.add(born.id)
        case Job():
            tx.lists.pop((JOBS_OF_RUN, born.run_id), None)
            tx.notices.runs.add(born.run_id)
            wakes.add(tx, "scheduler", "placement")
        case Run():
            pass


def _update(tx: Tx, new: Object, old: Object, actor: str) -> None:
    written = replace(new, version=new.version + 1)
    values = values_of(written, [name for name in type(new).__slots__ if getattr(written, name) != getattr(old, name)])
    statement = _update_of(TABLES[type(new)], tuple(values))
    if tx.conn.execute(statement, {**values, "of_id": new.id, "of_version": new.version}).rowcount != 1:
        raise Conflict(f"{KINDS[type(new)]} {new.id} changed while it was being decided on")
    tx.known[KINDS[type(new)], new.id] = written
    if new.status != old.status:
        events.add_move(tx, new, actor=actor)
    _tell_who_cares(tx, written, old)


@cache
def _update_of(table: Table, columns: tuple[str, ...]) -> Update:
    """Built once for each set of columns: building a statement takes longer than running it."""
    of_version = (table.c.id == bindparam("of_id")) & (table.c.version == bindparam("of_version"))
    return update(table).where(of_version).values({name: bindparam(name) for name in columns})


def _tell_who_cares(tx: Tx, new: Object, old: Object) -> None:
    """An object is looked at again after each change of its own, and so is what depends on what changed."""
    wakes.add(tx, KINDS[type(new)], new.id)
    match new, old:
        case Run(), _:
            if new.finished_at != old.finished_at:
                tx.notices.runs.add(new.id)
        case Job(), Job():
            _tell_of_job(tx, new, old)
        case Instance(), _:
            _tell_of_instance(tx, new, moved=new.status != old.status)


def _tell_of_job(tx: Tx, new: Job, old: Job) -> None:
    if new.status != old.status:
        wakes.add(tx, "run", new.run_id)
    if new.instance_id is None:
        return
    if new.instance_id != old.instance_id or new.finished_at != old.finished_at:
        tx.lists.pop((JOBS_ON, new.instance_id), None)
        wakes.add(tx, "instance", new.instance_id)
    if old.holds_machine and not new.holds_machine:
        wakes.add(tx, "scheduler", "placement")


_WAITING_FOR_INSTANCE = select(jobs.c.id).where(
    jobs.c.run_id.in_(
        select(jobs.c.run_id).where(jobs.c.instance_id == bindparam("instance_id"), jobs.c.finished_at.is_(None))
    ),
    jobs.c.finished_at.is_(None),
)


def _tell_of_instance(tx: Tx, instance: Instance, *, moved: bool) -> None:
    """Its jobs, and the gangs that wait for it."""
    tx.notices.instances.add(instance.id)
    for row in tx.conn.execute(_WAITING_FOR_INSTANCE, {"instance_id": instance.id}):
        wakes.add(tx, "job", row.id)
    if moved and instance.status is InstanceStatus.TERMINATED:
        tx.lists.pop((LIVE_INSTANCES, ""), None)
        wakes.add(tx, "scheduler", "placement")


def record(tx: Tx, thing: Object) -> None:
    """Store a fact that somebody observed: no move, so no table is asked. The object and those who care are woken."""
    _update(tx, thing, _old_of(tx, thing), actor="")


def delete_run(tx: Tx, run_id: str) -> list[str]:
    """Forget a run, its jobs and its events; the ids of the jobs, for their logs."""
    ids = [row.id for row in tx.conn.execute(select(jobs.c.id).where(jobs.c.run_id == run_id))]
    tx.known.clear()
    tx.lists.clear()
    intents.forget(tx, "job", ids)
    events.forget_run(tx, run_id)
    tx.conn.execute(delete(jobs).where(jobs.c.run_id == run_id))
    tx.conn.execute(delete(runs).where(runs.c.id == run_id))
    return ids
