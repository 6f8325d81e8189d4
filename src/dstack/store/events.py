"""History: one numbered line for each thing that happened."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Boolean, bindparam, delete, func, select

from dstack.domain.objects import Object
from dstack.protocol.statuses import JobReason, JobStatus, cause_text
from dstack.store.kinds import KINDS
from dstack.store.tables import events, runs
from dstack.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history."""

    seq: int
    at: datetime
    project_id: str | None
    object_kind: str
    object_id: str | None
    """None for a machine that belongs to nobody."""
    run_id: str | None
    """The run that it concerns, and below the instance."""
    instance_id: str | None
    actor: str
    kind: str
    status: str | None
    message: str
    run_name: str | None


def add(tx: Tx, thing: Object, *, actor: str, kind: str, message: str) -> None:
    """Write one line about an object."""
    name = tx.kind_of(thing)
    place = KINDS[name].place(thing)
    about = {"object_kind": name, "object_id": thing.id, "run_id": place.run_id, "instance_id": place.instance_id}
    about |= {"project_id": thing.project_id, "status": thing.status.value}
    tx.say({**about, "at": tx.clock.now(), "actor": actor, "kind": kind, "message": message})


def add_line(tx: Tx, *, actor: str, kind: str, message: str, project_id: str | None = None) -> None:
    """Write one line about something without a lifecycle: a user, a token, a secret, a machine without an instance.

    Args:
        kind: what it is and what happened, such as `secret.set`.
        project_id: the project whose members see the line. Without one, it is for admins of the server.
    """
    about = {**dict.fromkeys(("object_id", "run_id", "instance_id", "status")), "project_id": project_id}
    about |= {"object_kind": kind.partition(".")[0], "at": tx.clock.now(), "actor": actor, "kind": kind}
    tx.say({**about, "message": message})


def add_move(tx: Tx, thing: Object, *, actor: str) -> None:
    """Write the line about an object's new status."""
    name = tx.kind_of(thing)
    why = "" if thing.reason is JobReason.EXITED else cause_text(thing.reason, thing.detail)
    status = "failed" if thing.status == JobStatus.FAILED.value else f"is {thing.status}"
    message = f"{KINDS[name].title(thing)} {status}" + (f" ({why})" if why else "")
    add(tx, thing, actor=actor, kind=f"{name}.{thing.status}", message=message)


_OF_PROJECT = (
    select(events, runs.c.name.label("run_name"))
    .outerjoin(runs, runs.c.id == events.c.run_id)
    .where(events.c.seq > bindparam("after"))
    .where(
        (events.c.project_id == bindparam("project_id"))
        | (events.c.project_id.is_(None) & bindparam("shared", type_=Boolean))
    )
    .order_by(events.c.seq)
    .limit(bindparam("limit"))
)
_OF_RUN = _OF_PROJECT.where(events.c.run_id == bindparam("run_id"))


def list_after(
    tx: Tx, project_id: str, after: int, *, run_id: str | None, limit: int, shared: bool = False
) -> list[Event]:
    """Return events of a project with higher numbers than `after`, in order.

    Args:
        shared: whether the events of machines that belong to no project are among them.
    """
    rows = tx.select(
        _OF_RUN if run_id is not None else _OF_PROJECT,
        {"project_id": project_id, "run_id": run_id, "after": after, "limit": limit, "shared": shared},
    )
    return [Event(**row._mapping) for row in rows]


_LAST = select(func.max(events.c.seq))


def last_seq(tx: Tx) -> int:
    """The number of the newest line."""
    return tx.peek(_LAST).scalar() or 0


def forget_run(tx: Tx, run_id: str) -> None:
    """Delete the lines about a run."""
    tx.change(delete(events).where(events.c.run_id == run_id))
