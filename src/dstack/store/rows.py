"""Rows to domain values and back: the one place that knows both."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import Row

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import Offer, Share, demand_of_json, demand_to_json
from dstack.protocol.agent import report_of, resources_of, to_json
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus, RunStatus


def _reason(value: str | None) -> JobReason | None:
    return None if value is None else JobReason(value)


def run_of(row: Row[Any]) -> Run:
    """The run in a row of `runs`."""
    return Run(
        id=row.id,
        project_id=row.project_id,
        user_id=row.user_id,
        name=row.name,
        type=row.type,
        status=RunStatus(row.status),
        status_since=row.status_since,
        submitted_at=row.submitted_at,
        spec=row.spec,
        priority=row.priority,
        started_at=row.started_at,
        finished_at=row.finished_at,
        reason=_reason(row.reason),
        detail=row.detail,
        stop_asked=_reason(row.stop_asked),
        retry_at=row.retry_at,
        version=row.version,
    )


def run_values(run: Run) -> dict[str, Any]:
    """The columns of a run."""
    return {name: getattr(run, name) for name in Run.__slots__}


def job_of(row: Row[Any]) -> Job:
    """The job in a row of `jobs`."""
    return Job(
        id=row.id,
        run_id=row.run_id,
        project_id=row.project_id,
        replica=row.replica,
        node=row.node,
        nodes=row.nodes,
        attempt=row.attempt,
        status=JobStatus(row.status),
        status_since=row.status_since,
        submitted_at=row.submitted_at,
        demand=demand_of_json(row.demand),
        stop_grace_s=row.stop_grace_s,
        instance_id=row.instance_id,
        share=Share(row.share["cpus"], row.share["memory_mib"], tuple(row.share["gpus"])),
        started_at=row.started_at,
        finished_at=row.finished_at,
        reason=_reason(row.reason),
        detail=row.detail,
        stop_asked=_reason(row.stop_asked),
        report=None if row.report is None else report_of(row.report),
        lost_at=row.lost_at,
        exit_code=row.exit_code,
        signal=row.signal,
        version=row.version,
    )


def job_values(job: Job) -> dict[str, Any]:
    """The columns of a job."""
    values = {name: getattr(job, name) for name in Job.__slots__}
    return values | {
        "demand": demand_to_json(job.demand),
        "share": asdict(job.share),
        "report": None if job.report is None else to_json(job.report),
    }


def offer_of(body: dict[str, Any]) -> Offer:
    """The offer in a JSON column."""
    return Offer(**{**body, "resources": resources_of(body["resources"])})


def instance_of(row: Row[Any]) -> Instance:
    """The instance in a row of `instances`."""
    return Instance(
        id=row.id,
        project_id=row.project_id,
        offer=offer_of(row.offer),
        status=InstanceStatus(row.status),
        status_since=row.status_since,
        created_at=row.created_at,
        idle_duration=None if row.idle_duration_s is None else timedelta(seconds=row.idle_duration_s),
        machine_id=row.machine_id,
        hostname=row.hostname,
        agent_seen_at=row.agent_seen_at,
        unreachable_since=row.unreachable_since,
        ssh_port=row.ssh_port,
        ssh_host_key=row.ssh_host_key,
        reason=None if row.reason is None else InstanceReason(row.reason),
        detail=row.detail,
        finished_at=row.finished_at,
        version=row.version,
    )


def instance_values(instance: Instance) -> dict[str, Any]:
    """The columns of an instance."""
    values = {name: getattr(instance, name) for name in Instance.__slots__}
    idle_duration = values.pop("idle_duration")
    return values | {
        "backend": instance.offer.backend,
        "offer": asdict(instance.offer),
        "idle_duration_s": None if idle_duration is None else idle_duration.total_seconds(),
    }
