"""Views for the API, each made of an object on record by one function."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias

from msgspec.structs import replace

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import Offer, describe
from dstack.domain.reports import expected_bytes, pull_text
from dstack.errors import DstackError
from dstack.kit.text import storable, utc_text
from dstack.protocol.agent import Layer
from dstack.protocol.runtimes import Runtime
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.protocol.views import AttemptView, EventView, InstanceView, JobView, OfferView, PullView, RunView
from dstack.store import events, objects, queue, users
from dstack.store.events import Event
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
    views = _brief(tx, runs, jobs, earlier)
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
    detail = f"place {place} of {length} in the queue: {reason}" if view.status is RunStatus.SUBMITTED else view.detail
    return {"queue_place": place, "queue_length": length, "detail": detail}


def _attempt_view(job: Job, instance: Instance | None) -> AttemptView:
    return AttemptView(
        id=job.id,
        attempt=job.attempt,
        revision=job.revision,
        status=job.status,
        reason=job.reason,
        detail=job.detail,
        exit_code=job.exit_code,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        instance_id=job.instance_id,
        price=None if instance is None else instance.offer.price,
    )


_Earlier: TypeAlias = Mapping[str, Sequence[Job]]
"""The earlier attempts of jobs, by the id of the latest one."""


def _brief(
    tx: Tx, runs: Sequence[Run], jobs: Mapping[str, Sequence[Job]], earlier: _Earlier = MappingProxyType({})
) -> list[RunView]:
    cursor = events.last_seq(tx)
    shown = [*chain.from_iterable(jobs.values()), *chain.from_iterable(earlier.values())]
    instances = objects.instances_by_id(tx, [job.instance_id for job in shown if job.instance_id])
    names = users.names_of(tx, {run.project_id for run in runs} | {run.user_id for run in runs})
    return [_run_view(run, jobs.get(run.id, []), earlier, instances, names, cursor) for run in runs]


def _run_view(
    run: Run,
    jobs: Sequence[Job],
    earlier: _Earlier,
    instances: Mapping[str, Instance],
    names: Mapping[str, str],
    cursor: int,
) -> RunView:
    return RunView(
        id=run.id,
        name=run.name,
        project=names[run.project_id],
        user=names[run.user_id],
        status=run.status,
        reason=run.reason,
        detail=run.detail or _waiting_for(run, jobs, instances),
        next_start_at=run.retry_at,
        type=run.type,
        spec=dict(run.spec),
        revision=run.revision,
        priority=run.priority,
        submitted_at=run.submitted_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        jobs=[_job_view(job, earlier.get(job.id, ()), instances) for job in jobs],
        cursor=cursor,
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


def _job_view(job: Job, earlier: Sequence[Job], instances: Mapping[str, Instance]) -> JobView:
    instance = instances.get(job.instance_id or "")
    return JobView(
        id=job.id,
        replica=job.replica,
        node=job.node,
        attempt=job.attempt,
        revision=job.revision,
        status=job.status,
        reason=job.reason,
        detail=job.detail,
        exit_code=job.exit_code,
        signal=job.signal,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        instance=None if instance is None else instance_view(instance),
        ports=dict(job.ports),
        earlier=[_attempt_view(one, instances.get(one.instance_id or "")) for one in earlier],
        pull=_pull_view(job.report.layers) if job.status is JobStatus.PULLING and job.report else None,
        runtime=None if instance is None else Runtime.CONTAINER if job.share.container else Runtime.PROCESS,
    )


def _pull_view(layers: Sequence[Layer]) -> PullView | None:
    """Return the progress of an image pull; None without layers."""
    if not layers:
        return None
    return PullView(
        got_bytes=sum(layer.got_bytes for layer in layers),
        size_bytes=expected_bytes(layers),
        layers=len(layers),
        layers_ready=sum(layer.ready for layer in layers),
    )


def instance_view(instance: Instance) -> InstanceView:
    """One machine."""
    return InstanceView(
        id=instance.id,
        backend=instance.offer.backend,
        region=instance.offer.region,
        instance_type=instance.offer.instance_type,
        status=instance.status,
        hostname=instance.hostname,
        price=instance.offer.price,
        resources=describe(instance.offer_as_found.resources),
        detail=instance.why_resting,
        backend_name=instance.offer.backend_name,
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
        backend_name=offer.backend_name,
    )


def event_view(event: Event, project: str) -> EventView:
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
