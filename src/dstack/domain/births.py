"""Constructors of runs and jobs: from a configuration, and for the next attempt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dstack.domain.objects import Job, Revision, Run
from dstack.domain.schedules import next_start
from dstack.domain.specs import STOP_GRACE_S, configuration_in, demand_of, remember
from dstack.kit.text import utc_text
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.spec.configurations import RunConfiguration


@dataclass(frozen=True, slots=True)
class Owner:
    """The project and the user of a run."""

    project_id: str
    user_id: str


def new_run(
    revision: Revision,
    configuration: RunConfiguration,
    owner: Owner,
    name: str,
    *,
    now: datetime,
    key: str | None,
) -> Run:
    """A run as it begins: submitted, or waiting for the first time that its schedule names.

    Args:
        revision: its first one.
        configuration: that of the revision.
        key: equal for repetitions of one submit.
    """
    remember(revision, configuration)
    schedule = configuration.schedule
    at = next_start(schedule.cron, now) if schedule is not None else None
    return Run(
        id=revision.run_id,
        project_id=owner.project_id,
        user_id=owner.user_id,
        name=name,
        type=configuration.type,
        status=RunStatus.PENDING if at else RunStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        spec=revision.spec,
        revision=revision.number,
        priority=configuration.priority,
        retry_at=at,
        detail=f"the first start is at {utc_text(at)}" if at else "",
        idempotency_key=key,
        version=1,
    )


def first_jobs(run: Run, ids: Sequence[str], now: datetime) -> tuple[Job, ...]:
    """The first attempts of a run's jobs.

    Args:
        ids: identifiers for them, at least one for each.
    """
    first = _first_job(run, now)
    nodes = configuration_in(run.current).jobs()
    return tuple(
        replace(first, id=id, replica=node.replica, node=node.node, nodes=node.nodes)
        for node, id in zip(nodes, ids, strict=False)
    )


def _first_job(run: Run, now: datetime) -> Job:
    """Return the first attempt of a replica with one node."""
    configuration = configuration_in(run.current)
    return Job(
        id="",
        run_id=run.id,
        project_id=run.project_id,
        replica=0,
        node=0,
        nodes=1,
        attempt=1,
        revision=run.revision,
        deployment=run.deployment,
        status=JobStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        demand=demand_of(configuration),
        stop_grace_s=stop_grace_of(configuration),
        max_duration_s=configuration.max_duration or None,
        ports=ports_of(configuration),
    )


def stop_grace_of(configuration: RunConfiguration) -> float:
    """Return the seconds that its jobs have to end when stopped."""
    stop_duration = configuration.stop_duration
    return STOP_GRACE_S if stop_duration is None else float(stop_duration)


def ports_of(configuration: RunConfiguration) -> dict[int, int | None]:
    """Return the ports of its jobs, each with the local port that leads to it."""
    return {port.container_port: port.local_port for port in configuration.port_mappings()}


def next_attempt(run: Run, job: Job, id: str, now: datetime) -> Job:
    """The job once more, from the start, as the run's current revision has it."""
    if job.revision != run.revision:
        job = _revised(run, job)
    return Job(
        id=id,
        run_id=job.run_id,
        project_id=job.project_id,
        replica=job.replica,
        node=job.node,
        nodes=job.nodes,
        attempt=job.attempt + 1,
        revision=job.revision,
        deployment=run.deployment,
        status=JobStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        demand=job.demand,
        stop_grace_s=job.stop_grace_s,
        max_duration_s=job.max_duration_s,
        ports=job.ports,
    )


def new_replica(run: Run, number: int, former: Job | None, id: str, now: datetime) -> Job:
    """One more replica of a service.

    Args:
        former: the latest attempt of the replica that had this number; None where none had.
    """
    if former is not None:
        return next_attempt(run, former, id, now)
    return replace(_first_job(run, now), id=id, replica=number)


def _revised(run: Run, job: Job) -> Job:
    configuration = configuration_in(run.current)
    return replace(
        job,
        revision=run.revision,
        demand=demand_of(configuration),
        stop_grace_s=stop_grace_of(configuration),
        max_duration_s=configuration.max_duration or None,
        ports=ports_of(configuration),
    )
