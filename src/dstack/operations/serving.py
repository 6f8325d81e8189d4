"""The public side of services, for the API."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from msgspec.structs import replace

from dstack.domain.objects import Job, Run
from dstack.domain.serving import rollout_text, waits_for
from dstack.domain.specs import configuration_in
from dstack.domain.traffic import WINDOW, History, traffic_of
from dstack.protocol.proxy import models_path, service_path
from dstack.protocol.views import RunView, ServiceModelView, ServiceView, TrafficView
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
    )


def rollout_of(run: Run, jobs: Sequence[Job], now: datetime) -> str:
    """Return how far the rollout of a run is; empty without one."""
    return "" if run.status.is_finished() else rollout_text(run, jobs, now)


def with_traffic(tx: Tx, views: Sequence[RunView]) -> list[RunView]:
    """Return some runs, the services among them with their traffic."""
    ids = [view.id for view in views if view.service is not None]
    now = tx.clock.now()
    histories = traffic.read(tx, ids, now - WINDOW) if ids else {}
    return [
        view
        if view.service is None
        else replace(view, service=replace(view.service, traffic=_traffic_view(histories.get(view.id, []), now)))
        for view in views
    ]


def _traffic_view(histories: Sequence[History], now: datetime) -> TrafficView:
    found = asdict(traffic_of(histories, now.timestamp()))
    del found["at"]
    return TrafficView(**found)
