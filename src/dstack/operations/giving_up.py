"""Backends whose clouds never answer: they are deleted, and their machines given up, which may cost money."""

from dataclasses import replace

from dstack.domain.backends import BackendRecord
from dstack.domain.objects import Instance, Next
from dstack.engine.lifecycles import check_move
from dstack.errors import InvalidRequestError
from dstack.kit.text import first_of
from dstack.protocol.backends import BackendRemovalView
from dstack.protocol.statuses import InstanceReason, InstanceStatus
from dstack.store import backends, commits, events, objects
from dstack.store.tx import Tx
from dstack.store.users import User

NAMED_MAX = 10
"""The bound of machines or runs in a sentence."""


def title_of(instance: Instance) -> str:
    """Return a text for people about a machine, by which they find it in the cloud's console."""
    machine = f"machine {instance.machine_id}" if instance.machine_id else "machine unknown"
    where = f" at {instance.hostname}" if instance.hostname else ""
    offer = instance.offer
    return f"{offer.title} in {offer.region}: {machine}{where}, instance {instance.id} ({instance.status})"


def give_up(tx: Tx, user: User, record: BackendRecord) -> BackendRemovalView:
    """Delete the row of a backend, and end its instances on record though their machines may exist.

    Raises:
        InvalidRequestError: jobs run there whose agents answer: they would run on beside their next attempts.
    """
    machines = backends.machines_of(tx, record.id)
    _check_jobs(tx, record, machines)
    titles = [title_of(one) for one in machines]
    actor = f"user {user.name}"
    for instance in machines:
        _end(tx, instance, f"given up, and not confirmed as terminated: {user.name} has deleted its backend", actor)
    backends.remove(tx, record.id)
    left = f"; not confirmed as terminated ({len(titles)}): {'; '.join(titles)}" if titles else ""
    message = f"{user.name} removed the backend {record.name} ({record.type}) by force{left}"
    events.add_line(tx, actor=actor, kind="backend.removed", message=message, project_id=record.project_id)
    return BackendRemovalView(name=record.name, removed=True, given_up=titles)


def _check_jobs(tx: Tx, record: BackendRecord, machines: list[Instance]) -> None:
    answering = [one.id for one in machines if one.agent_seen_at is not None and one.unreachable_since is None]
    jobs = [job for id in answering for job in objects.unfinished_jobs_on(tx, id)]
    runs = [run.name for id in sorted({job.run_id for job in jobs}) if (run := objects.find_run(tx, id)) is not None]
    if runs:
        raise InvalidRequestError(
            f"Jobs run in the backend `{record.name}`, and their machines answer: {first_of(runs, NAMED_MAX)}",
            hint="Stop these runs first with `dstack stop`",
        )


def _end(tx: Tx, instance: Instance, why: str, actor: str) -> None:
    """Move an instance to its end along the table, in one commit."""
    for status in (InstanceStatus.TERMINATING, InstanceStatus.TERMINATED):
        now = tx.clock.now()
        current = objects.find_instance(tx, instance.id)
        assert current is not None, "a live instance is on record"
        moved = replace(current, status=status, reason=InstanceReason.BACKEND_REMOVED, detail=why)
        if status is InstanceStatus.TERMINATED:
            moved = replace(moved, finished_at=now)
        if moved.status is not current.status:
            commits.commit(tx, Next((replace(moved, status_since=now),)), check_move, actor=actor)
