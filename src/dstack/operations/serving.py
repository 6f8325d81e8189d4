"""The public side of services, for the API."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime

from msgspec.structs import replace

from dstack.domain.costs import Use, cost_of
from dstack.domain.objects import Job, Run
from dstack.domain.serving import rollout_text, waits_for
from dstack.domain.sizes import rules_of
from dstack.domain.specs import configuration_in
from dstack.domain.traffic import WINDOW, History, traffic_of
from dstack.protocol.proxy import models_path, service_path
from dstack.protocol.services import CostView, ScalingView, ServiceModelView, ServiceView, TrafficView
from dstack.protocol.views import AttemptView, JobView, RunView
from dstack.spec.service import Service
from dstack.store import traffic
from dstack.store.tx import Tx


def service_view(run: Run, project: str, jobs: Sequence[Job]) -> ServiceView | None:
    """Return the public side of a service; None for other runs.

    Args:
        project: the name of the run's project.
        jobs: the latest attempt of each of its jobs.
    """
    spec = configuration_in(run.current) if run.type == "service" else None
    if not isinstance(spec, Service):
        return None
    return ServiceView(
        url=service_path(project, run.name),
        auth=spec.auth,
        model=None if spec.model is None else ServiceModelView(name=spec.model.name, url=models_path(project)),
        is_rolling=run.rollout is not None and run.finished_at is None,
        waits_for=waits_for(run, jobs),
        scaling=_scaling_view(run),
    )


def _scaling_view(run: Run) -> ScalingView | None:
    rules = rules_of(configuration_in(run.current))
    if rules is None:
        return None
    return ScalingView(
        minimum=rules.minimum,
        maximum=rules.maximum,
        metric=rules.metric,
        target=rules.target,
        since=None if run.scale is None else run.scale.since,
        why="" if run.scale is None else run.scale.why,
    )


def rollout_of(run: Run, jobs: Sequence[Job], now: datetime) -> str:
    """Return how far the rollout of a run is; empty without one."""
    return "" if run.status.is_finished() else rollout_text(run, jobs, now)


def with_readings(tx: Tx, views: Sequence[RunView]) -> list[RunView]:
    """Return some runs with all their attempts, the services among them with their traffic and cost."""
    ids = [view.id for view in views if view.service is not None]
    now = tx.clock.now()
    histories = traffic.read(tx, ids, now - WINDOW) if ids else {}
    return [
        replace(view, service=_with_readings(view.service, view, histories.get(view.id, []), now))
        if view.service is not None
        else view
        for view in views
    ]


def _with_readings(service: ServiceView, view: RunView, histories: Sequence[History], now: datetime) -> ServiceView:
    return replace(service, traffic=_traffic_view(histories, now), cost=_cost_view(view.jobs, now))


def _cost_view(jobs: Sequence[JobView], now: datetime) -> CostView:
    cost = cost_of((use for job in jobs for use in _uses_of(job)), now)
    return CostView(replica_hours=cost.hours, dollars=cost.dollars, dollars_per_hour=cost.dollars_per_hour)


def _uses_of(job: JobView) -> Iterator[Use]:
    price = None if job.instance is None else job.instance.price
    attempts: list[tuple[AttemptView | JobView, float | None]] = [(one, one.price) for one in job.earlier]
    for one, dollars in (*attempts, (job, price)):
        if one.started_at is not None:
            yield Use(one.started_at, one.finished_at, dollars or 0.0)


def _traffic_view(histories: Sequence[History], now: datetime) -> TrafficView:
    found = asdict(traffic_of(histories, now.timestamp()))
    del found["at"]
    return TrafficView(**found)
