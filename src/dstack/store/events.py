"""History: one numbered line for each thing that happened."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, delete, func, select

from dstack.domain.objects import Instance, Job, Run
from dstack.kit.ids import short_id
from dstack.protocol.statuses import JobReason, JobStatus, cause_text
from dstack.store.tables import events, runs
from dstack.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history."""

    seq: int
    at: datetime
    project_id: str | None
    run_id: str | None
    job_id: str | None
    instance_id: str | None
    actor: str
    kind: str
    status: str | None
    message: str
    run_name: str | None


def add(tx: Tx, thing: Run | Job | Instance, *, actor: str, kind: str, message: str) -> None:
    """Write one line about an object."""
    values: dict[str, object] = dict.fromkeys(("run_id", "job_id", "instance_id"))
    values |= {"project_id": thing.project_id, "status": thing.status.value}
    match thing:
        case Run():
            values["run_id"] = thing.id
        case Job():
            values |= {"run_id": thing.run_id, "job_id": thing.id, "instance_id": thing.instance_id}
        case Instance():
            values["instance_id"] = thing.id
    tx.say({**values, "at": tx.clock.now(), "actor": actor, "kind": kind, "message": message})


def add_about_machine(tx: Tx, *, kind: str, message: str) -> None:
    """Write one line about a machine that belongs to nobody."""
    about = dict.fromkeys(("project_id", "run_id", "job_id", "instance_id", "status"))
    tx.say({**about, "at": tx.clock.now(), "actor": "engine", "kind": kind, "message": message})


def add_move(tx: Tx, thing: Run | Job | Instance, *, actor: str) -> None:
    """Write the line about an object's new status."""
    name = type(thing).__name__.lower()
    why = "" if thing.reason is JobReason.EXITED else cause_text(thing.reason, thing.detail)
    status = "failed" if thing.status == JobStatus.FAILED.value else f"is {thing.status}"
    message = f"{_title(thing)} {status}" + (f" ({why})" if why else "")
    add(tx, thing, actor=actor, kind=f"{name}.{thing.status}", message=message)


def _title(thing: Run | Job | Instance) -> str:
    match thing:
        case Run():
            return f"run {thing.name}"
        case Job():
            return thing.title + (f" attempt {thing.attempt}" if thing.attempt > 1 else "")
        case Instance():
            return f"instance {thing.offer.title} {short_id(thing.id)}"


_OF_PROJECT = (
    select(events, runs.c.name.label("run_name"))
    .outerjoin(runs, runs.c.id == events.c.run_id)
    .where(events.c.seq > bindparam("after"))
    .where((events.c.project_id == bindparam("project_id")) | events.c.project_id.is_(None))
    .order_by(events.c.seq)
    .limit(bindparam("limit"))
)
_OF_RUN = _OF_PROJECT.where(events.c.run_id == bindparam("run_id"))


def list_after(tx: Tx, project_id: str, after: int, *, run_id: str | None, limit: int) -> list[Event]:
    """Lines about a project (and about machines that all share) with higher numbers than `after`, in order."""
    rows = tx.select(
        _OF_RUN if run_id is not None else _OF_PROJECT,
        {"project_id": project_id, "run_id": run_id, "after": after, "limit": limit},
    )
    return [Event(**row._mapping) for row in rows]


_LAST = select(func.max(events.c.seq))


def last_seq(tx: Tx) -> int:
    """The number of the newest line."""
    return tx.peek(_LAST).scalar() or 0


def forget_run(tx: Tx, run_id: str) -> None:
    """Delete the lines about a run."""
    tx.change(delete(events).where(events.c.run_id == run_id))
