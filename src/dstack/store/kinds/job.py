"""Jobs: their rows, the view of their steps, and the objects that depend on them."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Row

from dstack.domain.launches import launches_of_json, launches_to_json
from dstack.domain.objects import Job, JobView, Run
from dstack.domain.offers import Share, demand_of_json, demand_to_json
from dstack.kit.ids import Ids
from dstack.kit.plain import to_plain
from dstack.protocol.agent import JobReport
from dstack.protocol.statuses import JobReason, JobStatus
from dstack.store import intents, leases, objects, queue, revisions, tables, wakes
from dstack.store.kinds.kind import Kind, Place
from dstack.store.objects import JOBS_OF_RUN, JOBS_ON, ROOM
from dstack.store.rows import Column, Rows
from dstack.store.tx import Tx


def _job_of(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        run_id=row.run_id,
        project_id=row.project_id,
        replica=row.replica,
        node=row.node,
        nodes=row.nodes,
        attempt=row.attempt,
        revision=row.revision,
        deployment=row.deployment,
        status=JobStatus(row.status),
        status_since=row.status_since,
        submitted_at=row.submitted_at,
        demand=demand_of_json(row.demand),
        stop_grace_s=row.stop_grace_s,
        max_duration_s=row.max_duration_s,
        ports={int(port): local for port, local in row.ports.items()},
        instance_id=row.instance_id,
        share=_share_of(row.share, row.demand),
        started_at=row.started_at,
        finished_at=row.finished_at,
        reason=None if row.reason is None else JobReason(row.reason),
        detail=row.detail,
        stop_asked=None if row.stop_asked is None else JobReason(row.stop_asked),
        report=None if row.report is None else msgspec.convert(row.report, JobReport),
        lost_at=row.lost_at,
        exit_code=row.exit_code,
        signal=row.signal,
        failing_since=row.failing_since,
        failures=row.failures,
        launches=launches_of_json(row.launches),
        unready_since=row.unready_since,
        draining_since=row.draining_since,
        drained_by=tuple(row.drained_by),
        version=row.version,
    )


def _share_of(body: dict[str, Any], demand: dict[str, Any]) -> Share:
    # Earlier versions did not store it: a job that asked for a container had one.
    container = body.get("container", bool(demand["container"]))
    return Share(body["cpus"], body["memory_mib"], tuple(body["gpus"]), container)


_COLUMNS: dict[str, Column] = {
    "demand": lambda demand: {"demand": demand_to_json(demand)},
    "share": lambda share: {"share": to_plain(share)},
    "report": lambda report: {"report": None if report is None else to_plain(report)},
    "launches": lambda launches: {"launches": launches_to_json(launches)},
    "drained_by": lambda drained_by: {"drained_by": list(drained_by)},
}


def _view_of(tx: Tx, job: Job, ids: Ids) -> JobView:
    """A job with its run, its instance, its gang and the outcomes of its intents."""
    run = objects.find_run(tx, job.run_id)
    assert run is not None, "a job's run is on record"
    gang = objects.gang_of(tx, job)
    placed = [node.instance_id for node in gang if node.instance_id is not None]
    instances = objects.instances_by_id(tx, placed) if placed else {}
    return JobView(
        job=job,
        run=run,
        revision=revisions.find(tx, run, job.revision),
        instance=instances.get(job.instance_id or ""),
        gang=tuple(gang),
        gang_instances=instances,
        outcomes=intents.outcomes_of(tx, "job", job.id),
        now=tx.clock.now(),
        data_planes=leases.with_data_planes(tx) if job.draining_since is not None else frozenset(),
    )


def _read_ahead(tx: Tx, ids: Sequence[str]) -> None:
    jobs = objects.jobs_by_id(tx, ids)
    gangs = {job.run_id for job in jobs if job.nodes > 1}
    objects.find_all(tx, Run, {job.run_id for job in jobs})
    objects.know_jobs_of_runs(tx, gangs)
    nodes = [*jobs, *(node for id in gangs for node in objects.jobs_of_run(tx, id))]
    objects.instances_by_id(tx, {node.instance_id for node in nodes if node.instance_id is not None})
    intents.read_ahead(tx, "job", [job.id for job in jobs])


def _born(tx: Tx, job: Job) -> None:
    _succeed(tx, job)
    queue.update(tx, job)
    if job.instance_id is not None:
        objects.append(tx, (JOBS_ON, job.instance_id), job.id)
    tx.notices.changed.add(job.run_id)
    wakes.add(tx, "scheduler", "arrival")


def _succeed(tx: Tx, job: Job) -> None:
    """The job is now the latest attempt of its node."""
    ids = tx.lists.get((JOBS_OF_RUN, job.run_id))
    if ids is not None:
        others = [one for one in objects.jobs_by_id(tx, ids) if (one.replica, one.node) != (job.replica, job.node)]
        latest = sorted([*others, job], key=lambda one: (one.replica, one.node))
        tx.lists[JOBS_OF_RUN, job.run_id] = tuple(one.id for one in latest)


def _changed(tx: Tx, new: Job, old: Job) -> None:
    if new.status != old.status:
        tx.notices.changed.add(new.run_id)
        wakes.add(tx, "run", new.run_id)
        _tell_gang(tx, new)
    elif _route(new) != _route(old):
        tx.notices.changed.add(new.run_id)
        wakes.add(tx, "run", new.run_id)
    if (new.status, new.stop_asked) != (old.status, old.stop_asked):
        queue.update(tx, new)
    if (new.instance_id, new.finished_at) != (old.instance_id, old.finished_at):
        _move(tx, new, old)
    if old.holds_machine != new.holds_machine:
        for instance_id in {old.instance_id, new.instance_id} - {None}:
            tx.known.pop((ROOM, instance_id or ""), None)
    if old.holds_machine and not new.holds_machine:
        wakes.add(tx, "scheduler", "placement")


def _route(job: Job) -> tuple[object, ...]:
    """Return what data planes need to know of a service's replica; the same of all other jobs."""
    report = job.report
    if report is None or report.ready is None:
        return (job.draining_since,)
    return job.is_ready, job.draining_since, report.port, report.address, report.unready_reason


def _tell_gang(tx: Tx, job: Job) -> None:
    """Other nodes may wait for this one to begin."""
    if job.nodes > 1 and job.has_begun:
        for node in objects.jobs_of_run(tx, job.run_id):
            wakes.add(tx, "job", node.id)


def _move(tx: Tx, new: Job, old: Job) -> None:
    """From the list of one instance to that of another, or off it at the end."""
    if old.instance_id is not None and (new.instance_id != old.instance_id or new.finished_at is not None):
        objects.remove(tx, (JOBS_ON, old.instance_id), new.id)
        wakes.add(tx, "instance", old.instance_id)
    if new.instance_id is not None and new.instance_id != old.instance_id:
        objects.append(tx, (JOBS_ON, new.instance_id), new.id)
        wakes.add(tx, "instance", new.instance_id)


JOB = Kind(
    Rows("job", Job, tables.jobs, _job_of, _COLUMNS),
    title=lambda job: job.title + (f" attempt {job.attempt}" if job.attempt > 1 else ""),
    view=_view_of,
    read_ahead=_read_ahead,
    place=lambda job: Place(job.run_id, job.instance_id),
    born=_born,
    changed=_changed,
)
