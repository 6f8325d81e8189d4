"""Views for the API, each made of an object on record by one function."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias

from msgspec.structs import replace

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import Offer, describe
from dstack.domain.reports import pull_text
from dstack.domain.serving import counts
from dstack.errors import DstackError
from dstack.kit.text import storable, utc_text
from dstack.operations.presenting_jobs import job_view
from dstack.operations.serving import rollout_of, service_view, with_readings
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.protocol.views import EventView, OfferView, RunView
from dstack.store import events, objects, queue, users
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

Why: TypeAlias = Callable[[str], str | None]
"""Returns why a run waits in the queue, if known."""


NOT_UP = (InstanceStatus.PENDING, InstanceStatus.PROVISIONING)

UNREADABLE = (DstackError, LookupError, TypeError, ValueError, AttributeError)
"""How a record shows that it is damaged, or was written by another version."""


def run_views(tx: Tx, runs: Sequence[Run], why: Why) -> list[RunView]:
    """Return some runs with their jobs and machines, their history and their places in the queue.

    One that cannot be shown is marked, and hides no other.
    """
    return _each(tx, runs, lambda some: _with_all(tx, some, why))


def _each(tx: Tx, runs: Sequence[Run], views_of: Callable[[Sequence[Run]], list[RunView]]) -> list[RunView]:
    """Return the views of all runs at once; where one of them does not let that be, one after the other."""
    try:
        return views_of(runs)
    except UNREADABLE as error:
        if len(runs) > 1:
            return [view for run in runs for view in _each(tx, [run], views_of)]
        log.exception("The run %s cannot be shown in full", runs[0].id)
        return [_marked(tx, runs[0], error)]


def _marked(tx: Tx, run: Run, error: Exception) -> RunView:
    """Return what of a run can be shown, with a mark."""
    names = users.names_of(tx, {run.project_id, run.user_id})
    return RunView(
        id=run.id,
        name=run.name,
        project=names.get(run.project_id, ""),
        user=names.get(run.user_id, ""),
        status=run.status,
        reason=run.reason,
        detail=f"This run cannot be shown in full: {type(error).__name__}; the server's log has the details",
        type=run.type,
        spec=storable(dict(run.spec)),
        revision=run.revision,
        priority=run.priority,
        submitted_at=run.submitted_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        jobs=[],
        cursor=events.last_seq(tx),
    )


def _with_all(tx: Tx, runs: Sequence[Run], why: Why) -> list[RunView]:
    attempts = objects.attempts_of_runs(tx, [run.id for run in runs])
    jobs = {run_id: [tries[-1] for tries in of_run.values()] for run_id, of_run in attempts.items()}
    earlier = {tries[-1].id: tries[:-1] for of_run in attempts.values() for tries in of_run.values()}
    queued = any(job.status is JobStatus.SUBMITTED for of_run in jobs.values() for job in of_run)
    places = queue.places(tx) if queued else {}
    views = with_readings(tx, _brief(tx, runs, jobs, earlier))
    return [
        replace(view, **_queued(view, places[view.id], len(places), why)) if view.id in places else view
        for view in views
    ]


def brief_view(tx: Tx, run: Run) -> RunView:
    """One run with its jobs and machines, as the answer to a wish: without history and place in the queue."""
    return _each(tx, [run], lambda some: _brief(tx, some, objects.jobs_of_runs(tx, [run.id])))[0]


def run_view(tx: Tx, run: Run, why: Why) -> RunView:
    """One run, as `run_views` has it."""
    return run_views(tx, [run], why)[0]


def _queued(view: RunView, place: int, length: int, why: Why) -> dict[str, object]:
    # Another server may have been the one to look at the queue.
    reason = why(view.id) or ("it waits for room" if place == 1 else "earlier runs wait too")
    place_text = f"place {place} of {length} in the queue: {reason}"
    is_service = view.replicas_asked is not None  # one replica may wait while others run
    detail = place_text if view.status is RunStatus.SUBMITTED or (is_service and not view.detail) else view.detail
    return {"queue_place": place, "queue_length": length, "detail": detail}


_Earlier: TypeAlias = Mapping[str, Sequence[Job]]
"""The earlier attempts of jobs, by the id of the latest one."""


def _brief(
    tx: Tx, runs: Sequence[Run], jobs: Mapping[str, Sequence[Job]], earlier: _Earlier = MappingProxyType({})
) -> list[RunView]:
    cursor = events.last_seq(tx)
    shown = [*chain.from_iterable(jobs.values()), *chain.from_iterable(earlier.values())]
    instances = objects.instances_by_id(tx, [job.instance_id for job in shown if job.instance_id])
    names = users.names_of(tx, {run.project_id for run in runs} | {run.user_id for run in runs})
    now = tx.clock.now()
    return [_run_view(run, jobs.get(run.id, []), earlier, instances, names, cursor, now) for run in runs]


def _run_view(
    run: Run,
    jobs: Sequence[Job],
    earlier: _Earlier,
    instances: Mapping[str, Instance],
    names: Mapping[str, str],
    cursor: int,
    now: datetime,
) -> RunView:
    service = service_view(run, names[run.project_id], jobs)
    ready, asked = counts(run, jobs)
    return RunView(
        id=run.id,
        name=run.name,
        project=names[run.project_id],
        user=names[run.user_id],
        status=run.status,
        reason=run.reason,
        detail="; ".join(filter(None, [run.detail, rollout_of(run, jobs, now)])) or _waiting_for(run, jobs, instances),
        next_start_at=run.retry_at,
        type=run.type,
        spec=dict(run.spec),
        revision=run.revision,
        priority=run.priority,
        submitted_at=run.submitted_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        service_url=None if service is None or run.finished_at is not None else service.url,
        service_model=None if service is None or service.model is None else service.model.name,
        service=service,
        jobs=[job_view(run, job, earlier.get(job.id, ()), instances) for job in jobs],
        cursor=cursor,
        replicas_ready=ready,
        replicas_asked=asked,
    )


def _waiting_for(run: Run, jobs: Sequence[Job], instances: Mapping[str, Instance]) -> str:
    if run.status.is_finished():
        return ""
    if run.status is RunStatus.SUBMITTED and any(job.status is JobStatus.SUBMITTED for job in jobs):
        return "waits in the queue"
    pulling = next((job.report.layers for job in jobs if job.status is JobStatus.PULLING and job.report), ())
    if pulling:
        return pull_text(pulling)
    preparing = [job.report.message for job in jobs if job.report and job.report.state == "preparing"]
    if any(preparing):
        return next(filter(None, preparing))
    waiting = [instance for job in jobs if (instance := instances.get(job.instance_id or ""))]
    not_up = [instance for instance in waiting if instance.status in NOT_UP and instance.detail]
    if not_up:
        return f"waits for its machine: {not_up[0].detail}"
    away = [(instance, since) for instance in waiting if (since := instance.unreachable_since) is not None]
    if away:
        instance, since = away[0]
        why = f" ({instance.detail})" if instance.detail else ""
        goes_on = "; the job continues there" if any(job.has_begun for job in jobs) else ""
        return f"the machine has not answered since {utc_text(since)}{why}{goes_on}"
    return ""


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
        backend_name=offer.backend_name,
    )


def event_view(event: events.Event, project: str) -> EventView:
    """One line of history."""
    return EventView(
        seq=event.seq,
        at=event.at,
        project=project if event.project_id else None,
        run_id=event.run_id,
        run_name=event.run_name,
        job_id=event.object_id if event.object_kind == "job" else None,
        instance_id=event.instance_id,
        actor=event.actor,
        kind=event.kind,
        status=event.status,
        message=event.message,
    )


def offer_views(tx: Tx, offers: Sequence[Offer]) -> list[OfferView]:
    """Return offers with their availability: the status of an existing machine, if there is one."""
    live = {one.offer.name: one.status.value for one in objects.live_instances(tx)}
    return [offer_view(offer, live.get(offer.name, "available")) for offer in offers]
