"""Runs, jobs and instances: load them, list them, and commit what a step said of them.

`commit` is the only way an object changes: guarded by its version, along its lifecycle's table, together with its
event, its intents and the wakes of everything that may care.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Row, Select, Table, and_, delete, func, insert, or_, select, update

from dstack.domain.objects import Instance, Job, Next, Run
from dstack.errors import Conflict
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.store import events, intents, wakes
from dstack.store.db import Tx
from dstack.store.rows import instance_of, instance_values, job_of, job_values, run_of, run_values
from dstack.store.tables import instances, jobs, runs

Object: TypeAlias = Run | Job | Instance
Status: TypeAlias = RunStatus | JobStatus | InstanceStatus
Check: TypeAlias = Callable[[str, Status, Status], None]
"""Raises `IllegalMove` unless an object of this kind may go from one status to the other."""

KINDS: dict[type[Object], str] = {Run: "run", Job: "job", Instance: "instance"}

O = TypeVar("O", Run, Job, Instance)


def find_run(tx: Tx, id: str) -> Run | None:
    """The run of this id."""
    return _find(tx, Run, id, runs, run_of)


def _find(tx: Tx, kind: type[O], id: str, table: Table, of: Callable[[Row[Any]], O]) -> O | None:
    """The object as this transaction knows it, or as it is on record."""
    if isinstance(known := tx.known.get((kind, id)), kind):
        return known
    row = tx.conn.execute(select(table).where(table.c.id == id)).one_or_none()
    if row is None:
        return None
    return _know(tx, of(row))


def find_run_by(tx: Tx, project_id: str, name_or_id: str) -> Run | None:
    """The run of this id, or the latest of this name."""
    named = or_(runs.c.name == name_or_id, runs.c.id == name_or_id)
    query = select(runs).where(runs.c.project_id == project_id, named).order_by(runs.c.id.desc()).limit(1)
    row = tx.conn.execute(query).one_or_none()
    return None if row is None else _know(tx, run_of(row))


def _know(tx: Tx, thing: O) -> O:
    """Remember an object for the rest of the transaction."""
    tx.known[type(thing), thing.id] = thing
    return thing


def find_run_by_key(tx: Tx, key: str) -> Run | None:
    """The run that was submitted under this idempotency key."""
    row = tx.conn.execute(select(runs).where(runs.c.idempotency_key == key)).one_or_none()
    return None if row is None else run_of(row)


def list_runs(tx: Tx, project_id: str, *, unfinished: bool = False, before: str | None = None, limit: int) -> list[Run]:
    """Runs of a project, newest first."""
    query = select(runs).where(runs.c.project_id == project_id).order_by(runs.c.id.desc()).limit(limit)
    if unfinished:
        query = query.where(runs.c.finished_at.is_(None))
    if before is not None:
        query = query.where(runs.c.id < before)
    return [run_of(row) for row in tx.conn.execute(query)]


def count_unfinished_runs(tx: Tx) -> int:
    """How many runs of all projects have not ended."""
    return tx.conn.execute(select(func.count()).where(runs.c.finished_at.is_(None))).scalar_one()


def find_job(tx: Tx, id: str) -> Job | None:
    """The job of this id."""
    return _find(tx, Job, id, jobs, job_of)


def jobs_of_run(tx: Tx, run_id: str) -> list[Job]:
    """The latest attempt of each job of a run, by replica and node."""
    return jobs_of_runs(tx, [run_id]).get(run_id, [])


def jobs_of_runs(tx: Tx, run_ids: Sequence[str]) -> dict[str, list[Job]]:
    """The latest attempt of each job, by run, each by replica and node."""
    query = select(jobs).where(jobs.c.run_id.in_(run_ids)).order_by(jobs.c.replica, jobs.c.node, jobs.c.attempt)
    latest: dict[str, dict[tuple[int, int], Job]] = {}
    for row in tx.conn.execute(query):
        latest.setdefault(row.run_id, {})[row.replica, row.node] = _know(tx, job_of(row))
    return {run_id: list(of_run.values()) for run_id, of_run in latest.items()}


def attempts_of(tx: Tx, run_id: str, replica: int, node: int) -> list[Job]:
    """All attempts of one job of a run, first to last."""
    mine = and_(jobs.c.run_id == run_id, jobs.c.replica == replica, jobs.c.node == node)
    return _jobs(tx, select(jobs).where(mine).order_by(jobs.c.attempt))


def run_names(tx: Tx, ids: Iterable[str]) -> dict[str, str]:
    """The names of some runs."""
    rows = tx.conn.execute(select(runs.c.id, runs.c.name).where(runs.c.id.in_(list(ids))))
    return {row.id: row.name for row in rows}


def gang_of(tx: Tx, job: Job) -> list[Job]:
    """The nodes of the same replica and attempt, this one among them, in order."""
    if job.nodes == 1:
        return [job]
    same = and_(jobs.c.run_id == job.run_id, jobs.c.replica == job.replica, jobs.c.attempt == job.attempt)
    return _jobs(tx, select(jobs).where(same).order_by(jobs.c.node))


def unfinished_jobs_on(tx: Tx, instance_id: str) -> list[Job]:
    """The jobs of an instance that have not ended."""
    return _jobs(tx, select(jobs).where(jobs.c.instance_id == instance_id, jobs.c.finished_at.is_(None)))


def jobs_by_id(tx: Tx, ids: Iterable[str]) -> list[Job]:
    """Those of the jobs that exist."""
    return _jobs(tx, select(jobs).where(jobs.c.id.in_(list(ids))))


def _jobs(tx: Tx, query: Select[tuple[object, ...]]) -> list[Job]:
    return [_know(tx, job_of(row)) for row in tx.conn.execute(query)]


def find_instance(tx: Tx, id: str) -> Instance | None:
    """The instance of this id."""
    return _find(tx, Instance, id, instances, instance_of)


def live_instances(tx: Tx) -> list[Instance]:
    """Every instance whose machine may exist."""
    rows = tx.conn.execute(select(instances).where(instances.c.finished_at.is_(None)))
    return [_know(tx, instance_of(row)) for row in rows]


def instances_by_id(tx: Tx, ids: Iterable[str]) -> dict[str, Instance]:
    """Those of the instances that exist."""
    found = {id: find_instance(tx, id) for id in set(ids)}
    return {id: instance for id, instance in found.items() if instance is not None}


@dataclass(frozen=True, slots=True)
class Queued:
    """A job in the queue, with what its place there depends on."""

    job: Job
    priority: int
    submitted_at: object


def queue_of(tx: Tx) -> Iterable[Queued]:
    """The queue, head first: priority, then who has waited longest. Read lazily: most passes need its head only."""
    columns = (runs.c.priority.label("run_priority"), runs.c.submitted_at.label("run_submitted_at"))
    query = (
        select(jobs, *columns)
        .join(runs, runs.c.id == jobs.c.run_id)
        .where(jobs.c.status == JobStatus.SUBMITTED, jobs.c.stop_asked.is_(None), runs.c.stop_asked.is_(None))
        .order_by(runs.c.priority.desc(), runs.c.submitted_at, runs.c.id, jobs.c.replica, jobs.c.node)
    )
    with tx.conn.execution_options(yield_per=100).execute(query) as rows:
        for row in rows:
            yield Queued(_know(tx, job_of(row)), row.run_priority, row.run_submitted_at)


def add_run(tx: Tx, run: Run, born: Sequence[Job], *, key: str | None, actor: str) -> None:
    """A new run with its jobs: queued and announced once this is committed."""
    tx.conn.execute(insert(runs).values(**run_values(run), idempotency_key=key))
    for job in born:
        _insert(tx, job)
    events.add(
        tx, run, actor=actor, kind="run.submitted", message=f"{actor.removeprefix('user ')} submitted {run.name}"
    )
    wakes.add(tx, "scheduler", "placement")


def delete_run(tx: Tx, run_id: str) -> list[str]:
    """Forget a run, its jobs and its events; the ids of the jobs, for their logs."""
    ids = [row.id for row in tx.conn.execute(select(jobs.c.id).where(jobs.c.run_id == run_id))]
    tx.known.clear()
    intents.forget(tx, "job", ids)
    events.forget_run(tx, run_id)
    tx.conn.execute(delete(jobs).where(jobs.c.run_id == run_id))
    tx.conn.execute(delete(runs).where(runs.c.id == run_id))
    return ids


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
        else:
            _update(tx, new, moved=old.status != new.status, actor=actor)
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
    first = replace(born, version=1)
    table, values = _row_of(first)
    tx.conn.execute(insert(table).values(**values))
    tx.known[type(born), born.id] = first
    wakes.add(tx, KINDS[type(born)], born.id)
    if isinstance(born, Instance):
        tx.notices.instances.add(born.id)


def _update(tx: Tx, new: Object, *, moved: bool, actor: str) -> None:
    written = replace(new, version=new.version + 1)
    table, values = _row_of(written)
    of_version = (table.c.id == new.id) & (table.c.version == new.version)
    if tx.conn.execute(update(table).where(of_version).values(**values)).rowcount != 1:
        raise Conflict(f"{KINDS[type(new)]} {new.id} changed while it was being decided on")
    tx.known[type(new), new.id] = written
    if moved:
        events.add_move(tx, new, actor=actor)
    _wake_who_cares(tx, new, moved)


def _row_of(thing: Object) -> tuple[Table, dict[str, object]]:
    match thing:
        case Run():
            return runs, run_values(thing)
        case Job():
            return jobs, job_values(thing)
        case Instance():
            return instances, instance_values(thing)


def _wake_who_cares(tx: Tx, thing: Object, moved: bool) -> None:
    """An object is looked at again after each change of its own, and so is what depends on it."""
    wakes.add(tx, KINDS[type(thing)], thing.id)
    match thing:
        case Job():
            tx.notices.touched |= {thing.id, thing.run_id}
            wakes.add(tx, "run", thing.run_id)
            if thing.instance_id is not None and moved:
                wakes.add(tx, "instance", thing.instance_id)
            if not thing.holds_machine and thing.instance_id is not None:
                wakes.add(tx, "scheduler", "placement")
        case Instance():
            tx.notices.instances.add(thing.id)
            for row in _unfinished_job_ids(tx, thing.id):
                wakes.add(tx, "job", row.id)
            if moved and thing.status in (InstanceStatus.IDLE, InstanceStatus.TERMINATED):
                wakes.add(tx, "scheduler", "placement")
        case Run():
            tx.notices.touched.add(thing.id)


def _unfinished_job_ids(tx: Tx, instance_id: str) -> Sequence[Row[tuple[str]]]:
    """The jobs of an instance, and of a gang that waits for it, as far as they have not ended."""
    mine = select(jobs.c.run_id).where(jobs.c.instance_id == instance_id, jobs.c.finished_at.is_(None))
    query = select(jobs.c.id).where(jobs.c.run_id.in_(mine), jobs.c.finished_at.is_(None))
    return tx.conn.execute(query).all()


def record(tx: Tx, thing: Object) -> None:
    """Store a fact that somebody observed: no move, so no table is asked. The object and those who care are woken."""
    _update(tx, thing, moved=False, actor="")
