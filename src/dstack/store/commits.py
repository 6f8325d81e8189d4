"""How objects come, change and go.

`commit` is the only way an object moves: guarded by its version, along its lifecycle's table, together with its event,
its intents and the wakes of everything that may care.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeAlias

from sqlalchemy import delete, select

from dstack.domain.objects import Job, Next, Object, Run
from dstack.errors import Conflict
from dstack.store import events, intents, metrics, revisions, traffic, wakes
from dstack.store.kinds import KINDS
from dstack.store.objects import JOBS_OF_RUN, SERVICES, find
from dstack.store.tables import jobs, runs
from dstack.store.tx import Tx

Check: TypeAlias = Callable[[str, StrEnum, StrEnum], None]
"""Raises `IllegalMove` unless an object of this kind may go from one status to the other."""


def add_run(tx: Tx, run: Run, born: Sequence[Job], *, actor: str) -> None:
    """A new run with its jobs: queued and announced once this is committed."""
    tx.put(run, None)
    revisions.add(tx, run, run.user_id)
    tx.lists[JOBS_OF_RUN, run.id] = ()
    for job in born:
        _insert(tx, job)
    if not born:  # it waits for its time
        wakes.add(tx, "run", run.id)
    if run.type == "service":
        tx.notices.changed.add(SERVICES)
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
            check(tx.kind_of(new), old.status, new.status)
    for new, old in zip(decided.write, olds, strict=True):
        if old is None:
            _insert(tx, new)
        elif new != old:  # a write wakes the object: one that changes nothing would be looked at for ever
            _update(tx, new, old, actor)
            if isinstance(new, Run) and isinstance(old, Run):
                _add_lines(tx, new, old, actor)
    for intent in decided.do:
        intents.add(tx, intent)


def _add_lines(tx: Tx, run: Run, old: Run, actor: str) -> None:
    """Write the revision and the number of replicas that a step has decided on, and why."""
    if run.revision != old.revision:
        revisions.add(tx, run, run.user_id)
        events.add(tx, run, actor=actor, kind="run.rolled_back", message=f"{run.name}: {run.detail}")
    if run.scale is not None and old.scale is not None and run.scale.asked != old.scale.asked:
        change = f"{old.scale.asked} → {run.scale.asked}: {run.scale.why}"
        events.add(tx, run, actor=actor, kind="run.scaled", message=f"{run.name}: replicas {change}")


def _old_of(tx: Tx, new: Object) -> Object:
    """The object as it was when it was decided on."""
    old = find(tx, type(new), new.id)
    if old is None or old.version != new.version:
        raise Conflict(f"{tx.kind_of(new)} {new.id} changed while it was being decided on")
    return old


def _insert(tx: Tx, born: Object) -> None:
    first = replace(born, version=1)
    kind = tx.kind_of(first)
    tx.put(first, None)
    intents.nothing_asked(tx, kind, first.id)
    wakes.add(tx, kind, first.id)
    KINDS[kind].born(tx, first)


def _update(tx: Tx, new: Object, old: Object, actor: str) -> None:
    """Write an object. It is looked at again after each change of its own, and so is all that depends on the change."""
    written = replace(new, version=new.version + 1)
    kind = tx.kind_of(written)
    tx.put(written, old)
    if new.status != old.status:
        events.add_move(tx, new, actor=actor)
    wakes.add(tx, kind, written.id)
    KINDS[kind].changed(tx, written, old)


def record(tx: Tx, thing: Object) -> None:
    """Store a fact that somebody observed: no move, so no table is asked. The object and those who care are woken."""
    _update(tx, thing, _old_of(tx, thing), actor="")


def revise(tx: Tx, run: Run, spec: Mapping[str, Any], *, user_id: str) -> Run:
    """Give a run another spec: its next revision. Jobs that were made before keep theirs."""
    revised = replace(run, spec=spec, revision=run.revision + 1)
    record(tx, revised)
    revisions.add(tx, revised, user_id)
    return revised


def delete_run(tx: Tx, run_id: str) -> list[str]:
    """Forget a run, its jobs, their metrics and its events; the ids of the jobs, for their logs."""
    ids = [row.id for row in tx.select(select(jobs.c.id).where(jobs.c.run_id == run_id))]
    tx.known.clear()
    tx.lists.clear()
    intents.forget(tx, "job", ids)
    events.forget_run(tx, run_id)
    metrics.forget(tx, ids)
    revisions.forget(tx, run_id)
    traffic.forget(tx, run_id)
    tx.change(delete(jobs).where(jobs.c.run_id == run_id))
    tx.change(delete(runs).where(runs.c.id == run_id))
    tx.notices.changed.add(run_id)
    return ids
