"""The state of a service for people: the reason for a wait, and the number of ready replicas."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from dstack.domain.objects import Job, Run
from dstack.domain.replicas import Failure, Replicas, count_ready, number_at_first, replicas_in, unready_text
from dstack.domain.sizes import replicas_of, rules_of
from dstack.domain.specs import SERVICE, configuration_in
from dstack.kit.text import utc_text
from dstack.protocol.statuses import JobStatus, RunStatus, cause_text

SOON = timedelta(minutes=1)
"""Requests wait for the next attempt of a replica that is retried within so long."""


def waits_for(run: Run, jobs: Iterable[Job]) -> str:
    """Return why no replica of a service is ready; empty if one is."""
    replicas = replicas_in(run, jobs)
    if replicas.ready:
        return ""
    if not replicas.asked and not run.status.is_finished() and run.stop_asked is None:
        has_rules = rules_of(configuration_in(run.current)) is not None
        return "the next request starts a replica" if has_rules else "it has no replicas (`replicas: 0`)"
    return _next_text(replicas) or f"the run is {run.status}"


def starts(run: Run, jobs: Iterable[Job]) -> bool:
    """Return whether none of a service's replicas is ready, and requests may wait for one."""
    replicas = replicas_in(run, jobs)
    if replicas.ready or run.stop_asked is not None or run.status is RunStatus.TERMINATING or run.status.is_finished():
        return False
    if not replicas.asked:
        return rules_of(configuration_in(run.current)) is not None
    return bool(replicas.current or replicas.old or replicas.dying) or any(map(_comes_soon, replicas.in_places))


def _comes_soon(failure: Failure) -> bool:
    again_at, ended_at = failure.again_at, failure.job.finished_at
    return again_at is not None and ended_at is not None and again_at - ended_at <= SOON


def counts(run: Run, jobs: Sequence[Job]) -> tuple[int, int] | tuple[None, None]:
    """Return the numbers of a service's ready replicas and of those asked for; None for other runs."""
    if run.type != SERVICE:
        return None, None
    ready = sum(job.is_ready and job.stop_asked is None for job in jobs)
    rules = rules_of(configuration_in(run.current))
    if rules is not None and run.scale is None:  # its next step makes that number the first decision
        return ready, number_at_first(rules, jobs)
    return ready, replicas_of(run)


def replica_detail(job: Job) -> str:
    """Return why a replica is not ready, as its agent reports; empty if it is."""
    return "" if job.is_ready else unready_text(job)


def rollout_text(run: Run, jobs: Iterable[Job], now: datetime) -> str:
    """Return how far a rollout is and what it waits for; empty without one."""
    if run.rollout is None:
        return ""
    replicas = replicas_in(run, jobs)
    how = " at once" if run.rollout.is_forced else ""
    asked, ready = replicas.asked, count_ready(replicas.current)
    progress = f"revision {run.revision} rolls out{how}: {min(ready, asked)} of {asked} ready"
    return "; ".join(filter(None, [progress, _next_text(replicas), _way_out(replicas, now)]))


def _next_text(replicas: Replicas) -> str:
    """Return what the next replica waits for."""
    coming = next((job for job in (*replicas.current, *replicas.old) if not job.is_ready), None)
    if coming is not None:
        return state_text(coming)
    if replicas.in_places:
        return _failure_text(replicas.in_places[0])
    draining = next((job for job in replicas.leaving if job.draining_since is not None), None)
    return "" if draining is None else state_text(draining)


def _way_out(replicas: Replicas, now: datetime) -> str:
    """Return the advice where the last ready replica is in the way of its successor."""
    has_no_room = replicas.waits_for_room(now) == timedelta(0)
    is_last = replicas.ready == 1 and any(job.is_ready for job in replicas.old)
    if not has_no_room or not is_last or replicas.leaving:
        return ""
    return "the last ready replica stays until then (`dstack apply --force` replaces it at once)"


def _failure_text(failure: Failure) -> str:
    job = failure.job
    failed = f"replica {job.replica} failed ({cause_text(job.reason, job.detail)})"
    return failed if failure.again_at is None else f"{failed}; its next attempt starts at {utc_text(failure.again_at)}"


def state_text(job: Job) -> str:
    """Return what a replica does that is not ready."""
    if job.draining_since is not None:
        return f"replica {job.replica} finishes its requests"
    match job.status:
        case JobStatus.SUBMITTED:
            what = "waits for room"
        case JobStatus.PROVISIONING:
            what = "waits for its machine"
        case JobStatus.PULLING:
            what = "pulls its image"
        case JobStatus.RUNNING:
            what = ": ".join(filter(None, ["is not ready", unready_text(job)]))
        case _:
            what = "ends"
    return f"replica {job.replica} {what}"
