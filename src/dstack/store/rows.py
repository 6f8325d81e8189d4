"""Rows to domain values and back: the one place that knows both."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Row, Table

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import Offer, Share, demand_of_json, demand_to_json
from dstack.kit.plain import to_plain
from dstack.protocol.agent import report_of, resources_of, to_json
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus, RunStatus
from dstack.store.tables import instances, jobs, runs

Object: TypeAlias = Run | Job | Instance
Thing = TypeVar("Thing", Run, Job, Instance)

KINDS: dict[type[Object], str] = {Run: "run", Job: "job", Instance: "instance"}
TABLES: dict[type[Object], Table] = {Run: runs, Instance: instances, Job: jobs}
"""In the order in which new rows may refer to each other."""


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
        failing_since=row.failing_since,
        idempotency_key=row.idempotency_key,
        version=row.version,
    )


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
        max_duration_s=row.max_duration_s,
        instance_id=row.instance_id,
        share=_share_of(row.share, row.demand),
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


def _share_of(body: dict[str, Any], demand: dict[str, Any]) -> Share:
    # Earlier versions did not write it down: what asked for a container had one.
    container = body.get("container", bool(demand["container"]))
    return Share(body["cpus"], body["memory_mib"], tuple(body["gpus"]), container)


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
        gone_at=row.gone_at,
        failed_starts=row.failed_starts,
        rests_until=row.rests_until,
        ssh_port=row.ssh_port,
        ssh_host_key=row.ssh_host_key,
        reason=None if row.reason is None else InstanceReason(row.reason),
        detail=row.detail,
        finished_at=row.finished_at,
        version=row.version,
    )


_COLUMNS: dict[str, Callable[[Any], dict[str, object]]] = {
    "demand": lambda demand: {"demand": demand_to_json(demand)},
    "share": lambda share: {"share": to_plain(share)},
    "report": lambda report: {"report": None if report is None else to_json(report)},
    "offer": lambda offer: {"offer": to_plain(offer), "backend": offer.backend},
    "idle_duration": lambda span: {"idle_duration_s": None if span is None else span.total_seconds()},
}
"""The fields that are not columns as they stand."""


def values_of(thing: Object, fields: Iterable[str] | None = None) -> dict[str, object]:
    """The columns of an object: all, or those that hold some of its fields."""
    values: dict[str, object] = {}
    for name in fields or type(thing).__slots__:
        value = getattr(thing, name)
        values.update(_COLUMNS[name](value) if name in _COLUMNS else {name: value})
    return values
