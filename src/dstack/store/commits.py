"""How runs, jobs and instances come, change and go.

`commit` is the only way an object moves: guarded by its version, along its lifecycle's table, together with its event,
its intents and the wakes of everything that may care.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from sqlalchemy import delete, select

from dstack.domain.objects import Instance, Job, Next, Run
from dstack.errors import Conflict
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.store import events, intents, metrics, queue, wakes
from dstack.store.objects import (
    IN_USE,
    JOBS_OF_RUN,
    JOBS_ON,
    LIVE_INSTANCES,
    ROOM,
    SOLD_OUT,
    find_instance,
    find_job,
    find_run,
    jobs_by_id,
    jobs_of_run,
    unfinished_jobs_on,
)
from dstack.store.rows import KINDS, Object
from dstack.store.tables import jobs, runs
from dstack.store.tx import Tx

Status: TypeAlias = RunStatus | JobStatus | InstanceStatus
Check: TypeAlias = Callable[[str, Status, Status], None]
"""Raises `IllegalMove` unless an object of this kind may go from one status to the other."""


def add_run(tx: Tx, run: Run, born: Sequence[Job], *, actor: str) -> None:
    """A new run with its jobs: queued and announced once this is committed."""
    tx.put(run, None)
    tx.lists[JOBS_OF_RUN, run.id] = ()
    for job in born:
        _insert(tx, job)
    if not born:  # it waits for its time
        wakes.add(tx, "run", run.id)
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
    kind = KINDS[type(first)]
    tx.put(first, None)
    intents.nothing_asked(tx, kind, first.id)
    wakes.add(tx, kind, first.id)
    match first:
        case Instance():
            _append(tx, (LIVE_INSTANCES, ""), first.id)
            tx.lists[JOBS_ON, first.id] = ()
            tx.known.pop((IN_USE, ""), None)
            tx.notices.instances.add(first.id)
        case Job():
            _succeed(tx, first)
            queue.update(tx, first)
            if first.instance_id is not None:
                _append(tx, (JOBS_ON, first.instance_id), first.id)
            tx.notices.changed.add(first.run_id)
            wakes.add(tx, "scheduler", "placement")
        case Run():
            pass


def _succeed(tx: Tx, job: Job) -> None:
    """The job is now the latest attempt of its node."""
    ids = tx.lists.get((JOBS_OF_RUN, job.run_id))
    if ids is not None:
        others = [one for one in jobs_by_id(tx, ids) if (one.replica, one.node) != (job.replica, job.node)]
        latest = sorted([*others, job], key=lambda one: (one.replica, one.node))
        tx.lists[JOBS_OF_RUN, job.run_id] = tuple(one.id for one in latest)


def _append(tx: Tx, which: tuple[str, str], id: str) -> None:
    if (ids := tx.lists.get(which)) is not None:
        tx.lists[which] = (*ids, id)


def _remove(tx: Tx, which: tuple[str, str], id: str) -> None:
    if (ids := tx.lists.get(which)) is not None:
        tx.lists[which] = tuple(one for one in ids if one != id)


def _update(tx: Tx, new: Object, old: Object, actor: str) -> None:
    written = replace(new, version=new.version + 1)
    tx.put(written, old)
    if new.status != old.status:
        events.add_move(tx, new, actor=actor)
    _tell_who_cares(tx, written, old)


def _tell_who_cares(tx: Tx, new: Object, old: Object) -> None:
    """An object is looked at again after each change of its own, and so is what depends on what changed."""
    wakes.add(tx, KINDS[type(new)], new.id)
    match new, old:
        case Run(), Run():
            if new.stop_asked != old.stop_asked:
                for job in jobs_of_run(tx, new.id):
                    queue.update(tx, job)
            if new.finished_at != old.finished_at:
                tx.notices.changed.add(new.id)
        case Job(), Job():
            _tell_of_job(tx, new, old)
        case Instance(), Instance():
            _tell_of_instance(tx, new, old)
            if (new.offer, new.rests_until) != (old.offer, old.rests_until):  # who waits may fit now
                wakes.add(tx, "scheduler", "placement")


def _tell_of_job(tx: Tx, new: Job, old: Job) -> None:
    if new.status != old.status:
        wakes.add(tx, "run", new.run_id)
        _tell_gang(tx, new)
    if (new.status, new.stop_asked) != (old.status, old.stop_asked):
        queue.update(tx, new)
    if (new.instance_id, new.finished_at) != (old.instance_id, old.finished_at):
        _move(tx, new, old)
    if old.holds_machine != new.holds_machine:
        for instance_id in {old.instance_id, new.instance_id} - {None}:
            tx.known.pop((ROOM, instance_id or ""), None)
    if old.holds_machine and not new.holds_machine:
        wakes.add(tx, "scheduler", "placement")


def _tell_gang(tx: Tx, job: Job) -> None:
    """Other nodes may wait for this one to begin."""
    if job.nodes > 1 and job.has_begun:
        for node in jobs_of_run(tx, job.run_id):
            wakes.add(tx, "job", node.id)


def _move(tx: Tx, new: Job, old: Job) -> None:
    """From the list of one instance to that of another, or off it at the end."""
    if old.instance_id is not None and (new.instance_id != old.instance_id or new.finished_at is not None):
        _remove(tx, (JOBS_ON, old.instance_id), new.id)
        wakes.add(tx, "instance", old.instance_id)
    if new.instance_id is not None and new.instance_id != old.instance_id:
        _append(tx, (JOBS_ON, new.instance_id), new.id)
        wakes.add(tx, "instance", new.instance_id)


def _tell_of_instance(tx: Tx, instance: Instance, old: Instance) -> None:
    """Its jobs, and the gangs that wait for it; those who follow a run see why its machine is not there yet."""
    tx.notices.instances.add(instance.id)
    tx.known.pop((ROOM, instance.id), None)
    for job in unfinished_jobs_on(tx, instance.id):
        if instance.detail != old.detail:
            tx.notices.changed.add(job.run_id)
        gang = jobs_of_run(tx, job.run_id) if job.nodes > 1 else [job]
        for node in gang:
            wakes.add(tx, "job", node.id)
    if instance.status != old.status and instance.status is InstanceStatus.TERMINATED:
        _remove(tx, (LIVE_INSTANCES, ""), instance.id)
        tx.known.pop((SOLD_OUT, ""), None)
        tx.known.pop((IN_USE, ""), None)
        wakes.add(tx, "scheduler", "placement")


def record(tx: Tx, thing: Object) -> None:
    """Store a fact that somebody observed: no move, so no table is asked. The object and those who care are woken."""
    _update(tx, thing, _old_of(tx, thing), actor="")


def delete_run(tx: Tx, run_id: str) -> list[str]:
    """Forget a run, its jobs, their metrics and its events; the ids of the jobs, for their logs."""
    ids = [row.id for row in tx.select(select(jobs.c.id).where(jobs.c.run_id == run_id))]
    tx.known.clear()
    tx.lists.clear()
    intents.forget(tx, "job", ids)
    events.forget_run(tx, run_id)
    metrics.forget(tx, ids)
    tx.change(delete(jobs).where(jobs.c.run_id == run_id))
    tx.change(delete(runs).where(runs.c.id == run_id))
    tx.notices.changed.add(run_id)
    return ids
