"""What is on record, as the API shows it: one conversion for each view."""

from collections.abc import Mapping, Sequence

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import Offer, describe
from dstack.domain.specs import configuration_in
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.protocol.views import EventView, InstanceView, JobView, OfferView, RunView
from dstack.store import events, objects, users
from dstack.store.events import Event
from dstack.store.tx import Tx


def run_views(tx: Tx, runs: Sequence[Run]) -> list[RunView]:
    """Some runs with their jobs and machines."""
    cursor = events.last_seq(tx)
    jobs = objects.jobs_of_runs(tx, [run.id for run in runs])
    placed = {job.instance_id for of_run in jobs.values() for job in of_run if job.instance_id}
    instances = objects.instances_by_id(tx, placed)
    names = users.names_of(tx, {run.project_id for run in runs} | {run.user_id for run in runs})
    return [_run_view(run, jobs.get(run.id, []), instances, names, cursor) for run in runs]


def run_view(tx: Tx, run: Run) -> RunView:
    """One run with its jobs and machines."""
    return run_views(tx, [run])[0]


def _run_view(
    run: Run, jobs: Sequence[Job], instances: Mapping[str, Instance], names: Mapping[str, str], cursor: int
) -> RunView:
    ports = _ports_of(run)
    return RunView(
        id=run.id,
        name=run.name,
        project=names[run.project_id],
        user=names[run.user_id],
        status=run.status,
        reason=run.reason,
        detail=run.detail or _waiting_for(run, jobs, instances),
        type=run.type,
        spec=dict(run.spec),
        priority=run.priority,
        submitted_at=run.submitted_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        jobs=[_job_view(job, instances.get(job.instance_id or ""), ports) for job in jobs],
        cursor=cursor,
    )


def _waiting_for(run: Run, jobs: Sequence[Job], instances: Mapping[str, Instance]) -> str:
    if run.status is RunStatus.SUBMITTED and any(job.status is JobStatus.SUBMITTED for job in jobs):
        return "waits in the queue for a machine with room"
    waiting = [instance for job in jobs if (instance := instances.get(job.instance_id or ""))]
    away = [instance for instance in waiting if instance.unreachable_since is not None]
    if away and not run.status.is_finished():
        return f"the machine has not answered since {away[0].unreachable_since:%H:%M:%S} UTC; the job goes on there"
    return ""


def _ports_of(run: Run) -> dict[int, int | None]:
    return {port.container_port: port.local_port for port in configuration_in(run.spec).ports}


def _job_view(job: Job, instance: Instance | None, ports: dict[int, int | None]) -> JobView:
    return JobView(
        id=job.id,
        replica=job.replica,
        node=job.node,
        attempt=job.attempt,
        status=job.status,
        reason=job.reason,
        detail=job.detail,
        exit_code=job.exit_code,
        signal=job.signal,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        instance=None if instance is None else _instance_view(instance),
        ports=ports,
    )


def _instance_view(instance: Instance) -> InstanceView:
    return InstanceView(
        id=instance.id,
        backend=instance.offer.backend,
        region=instance.offer.region,
        instance_type=instance.offer.instance_type,
        status=instance.status,
        hostname=instance.hostname,
        price=instance.offer.price,
        resources=describe(instance.offer.resources),
    )


def offer_view(offer: Offer, availability: str) -> OfferView:
    """One offer and whether it can be had."""
    return OfferView(
        backend=offer.backend,
        region=offer.region,
        instance_type=offer.instance_type,
        resources=describe(offer.resources),
        spot=offer.spot,
        price=offer.price,
        availability=availability,
    )


def event_view(event: Event, project: str) -> EventView:
    """One line of history."""
    return EventView(
        seq=event.seq,
        at=event.at,
        project=project if event.project_id else None,
        run_id=event.run_id,
        run_name=event.run_name,
        job_id=event.job_id,
        instance_id=event.instance_id,
        actor=event.actor,
        kind=event.kind,
        status=event.status,
        message=event.message,
    )
