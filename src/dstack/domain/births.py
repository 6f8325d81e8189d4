"""Constructors of runs and jobs: from a configuration, and for the next attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dstack.domain.objects import Job, Run
from dstack.domain.schedules import next_start
from dstack.domain.specs import STOP_GRACE_S, configuration_in, demand_of
from dstack.kit.text import utc_text
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.spec.configurations import RunConfiguration


@dataclass(frozen=True, slots=True)
class Owner:
    """The project and the user of a run."""

    project_id: str
    user_id: str


def new_run(id: str, owner: Owner, name: str, spec: Mapping[str, Any], *, now: datetime, key: str | None) -> Run:
    """A run as it begins: submitted, or waiting for the first time that its schedule names.

    Args:
        spec: the body of the submit.
        key: equal for repetitions of one submit.
    """
    configuration = configuration_in(spec)
    schedule = configuration.schedule
    at = next_start(schedule.cron, now) if schedule is not None else None
    return Run(
        id=id,
        project_id=owner.project_id,
        user_id=owner.user_id,
        name=name,
        type=configuration.type,
        status=RunStatus.PENDING if at else RunStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        spec=spec,
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
    configuration = configuration_in(run.spec)
    demand = demand_of(configuration)
    return tuple(
        Job(
            id=id,
            run_id=run.id,
            project_id=run.project_id,
            replica=node.replica,
            node=node.node,
            nodes=node.nodes,
            attempt=1,
            status=JobStatus.SUBMITTED,
            status_since=now,
            submitted_at=now,
            demand=demand,
            stop_grace_s=stop_grace_of(configuration),
            max_duration_s=configuration.max_duration or None,
        )
        for node, id in zip(configuration.jobs(), ids, strict=False)
    )


def stop_grace_of(configuration: RunConfiguration) -> float:
    """Return the seconds that its jobs have to end when stopped."""
    stop_duration = configuration.stop_duration
    return STOP_GRACE_S if stop_duration is None else float(stop_duration)


def next_attempt(job: Job, id: str, now: datetime) -> Job:
    """The job once more, from the start."""
    return Job(
        id=id,
        run_id=job.run_id,
        project_id=job.project_id,
        replica=job.replica,
        node=job.node,
        nodes=job.nodes,
        attempt=job.attempt + 1,
        status=JobStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        demand=job.demand,
        stop_grace_s=job.stop_grace_s,
        max_duration_s=job.max_duration_s,
    )
