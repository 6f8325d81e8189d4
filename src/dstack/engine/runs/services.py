"""A service: each of its replicas lives its own life. One that dies is replaced alone; a rollout goes one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dstack.domain.births import new_replica
from dstack.domain.objects import Job, Next, Run, RunView
from dstack.domain.replicas import Failure, Replicas, count_ready, is_complete, replicas_in, why_back
from dstack.domain.rollouts import ROLLOUT_FOR, Rollout
from dstack.domain.sizes import replicas_of
from dstack.domain.updates import restored
from dstack.engine.runs.deriving import end, first_failed, status_of
from dstack.engine.runs.scaling import called_back, scaled
from dstack.kit.text import utc_text
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus, cause_text


def serve(view: RunView) -> Next:
    """Replace the replicas that die or are old; end once none is left and none may come."""
    run = view.run
    if run.stop_asked is not None:
        return end(view, run.stop_asked, "")
    replicas = replicas_in(run, view.jobs, view.revised_at)
    if (why := why_back(run, replicas, view.now)) is not None:
        return _roll_back(view, why)
    before, (run, again) = run, scaled(view)
    view = replace(view, run=run)
    replicas, back = called_back(run, replicas_in(run, view.jobs, view.revised_at))
    left = tuple(_leaving(run, replicas, view.now))
    born = _born(view, replicas)
    if replicas.asked and not born and not replicas.current and not replicas.old and not replicas.dying:
        return _wait_or_end(view, replicas, before)
    times = [*_times_left(replicas, born, view.now), *([] if again is None else [again])]
    return Next((*_followed(view, replicas, born, before), *back, *left, *born), again=min(times, default=None))


def start_again(view: RunView) -> Next:
    """Submit the replicas whose time has come: those that failed, or all where a schedule begins."""
    run, now = view.run, view.now
    submitted = replace(run, status=RunStatus.SUBMITTED, status_since=now, retry_at=None, failing_since=None, detail="")
    if run.failing_since is not None:
        replicas = replicas_in(run, view.jobs, view.revised_at)
        return Next((submitted, *_born(view, replicas)))
    former = {job.replica: job for job in view.jobs}
    numbers = range(replicas_of(run))
    born = (new_replica(run, n, former.get(n), id, now) for n, id in zip(numbers, view.new_ids, strict=False))
    return Next((submitted, *born))


def _leaving(run: Run, replicas: Replicas, now: datetime) -> Iterator[Job]:
    """Yield the replicas that are to leave, as they are from now on."""
    if run.rollout is not None and run.rollout.is_forced:
        yield from (replace(job, stop_asked=JobReason.REPLACED) for job in replicas.old)
        return
    surplus = sorted(replicas.current, key=lambda job: (job.is_ready, -job.submitted_at.timestamp(), -job.replica))
    for job in surplus[: max(len(replicas.current) - replicas.asked, 0)]:
        yield _drained(job, JobReason.SCALED_DOWN, now)
    yield from (_drained(job, JobReason.REPLACED, now) for job in _replaceable(replicas, now))


def _replaceable(replicas: Replicas, now: datetime) -> Sequence[Job]:
    """Return the old replicas that the service can do without: unready ones first."""
    unstarted = [job for job in replicas.old if not job.has_begun]
    started = sorted((job for job in replicas.old if job.has_begun), key=lambda job: (job.is_ready, job.replica))
    kept = max(replicas.asked - count_ready(replicas.current), 0)
    surplus = started[: max(len(started) - kept, 0)]
    if surplus or unstarted or replicas.leaving or not started or replicas.waits_for_room(now) != timedelta(0):
        return [*unstarted, *surplus]
    # A new one finds no room: an old one makes it, unless that is the last one that is ready.
    first = started[0]
    return [first] if not first.is_ready or replicas.ready > 1 else []


def _drained(job: Job, reason: JobReason, now: datetime) -> Job:
    """Return the replica, asked to leave: one that runs finishes its requests first."""
    return replace(job, stop_asked=reason, draining_since=now if job.status is JobStatus.RUNNING else None)


def _born(view: RunView, replicas: Replicas) -> tuple[Job, ...]:
    """Return the replicas that begin now."""
    run, now = view.run, view.now
    due = [one for one in replicas.in_places if one.again_at is not None and one.again_at <= now]
    taken = {job.replica for job in view.jobs if not job.status.is_finished()}
    taken |= {one.job.replica for one in replicas.in_places}
    former = {job.replica: job for job in view.jobs}
    free = [number for number in range(len(taken) + replicas.missing) if number not in taken]
    ids = iter(view.new_ids[: replicas.room])
    again = [_retried(run, one, id, now) for one, id in zip(due, ids, strict=False)]
    fresh = zip(free[: replicas.missing], ids, strict=False)
    return (*again, *(new_replica(run, number, former.get(number), id, now) for number, id in fresh))


def _retried(run: Run, failure: Failure, id: str, now: datetime) -> Job:
    job = failure.job
    again = new_replica(run, job.replica, job, id, now)
    return replace(again, failing_since=failure.since, failures=failure.count, launches=job.launches)


def _followed(view: RunView, replicas: Replicas, born: Sequence[Job], before: Run) -> tuple[Run, ...]:
    """Return the run as its replicas are now, where that is another one than before.

    A service without replicas runs: it takes requests.
    """
    run = view.run
    alive = (*(job for job in view.jobs if not job.status.is_finished()), *born)
    status = status_of(alive) if alive or replicas.asked else RunStatus.RUNNING
    followed = replace(run, rollout=None if is_complete(replicas) else run.rollout)
    if status is not run.status:
        started_at = view.now if status is RunStatus.RUNNING and run.started_at is None else run.started_at
        followed = replace(followed, status=status, status_since=view.now, started_at=started_at)
    return () if followed == before else (followed,)


def _wait_or_end(view: RunView, replicas: Replicas, before: Run) -> Next:
    """Wait for the next attempt where nothing is left but failures; end where none of them is tried again."""
    run, now = view.run, view.now
    waiting = [one for one in replicas.in_places if one.again_at is not None]
    if replicas.leaving:  # the end of each wakes the run: it makes room, and its requests may still have to end
        times = [one.again_at - now for one in waiting if one.again_at is not None and one.again_at > now]
        return Next(() if run == before else (run,), again=min(times, default=None))
    if not waiting:
        failed = first_failed(one.job for one in replicas.failures)
        cause = None if failed is None else failed.reason
        return end(view, cause or JobReason.EXITED, "" if failed is None else failed.detail)
    first = waiting[0]
    assert first.again_at is not None
    why = cause_text(first.job.reason, first.job.detail)
    attempt = first.job.attempt
    detail = f"attempt {attempt} failed ({why}); attempt {attempt + 1} starts at {utc_text(first.again_at)}"
    pending = replace(run, status=RunStatus.PENDING, status_since=now, detail=detail)
    pending = replace(pending, retry_at=first.again_at, failing_since=first.since)
    return Next((pending,), again=max(first.again_at - now, timedelta(0)))


def _times_left(replicas: Replicas, born: Sequence[Job], now: datetime) -> Iterator[timedelta]:
    """Yield the times until something is due: a next attempt, room for it, or the end of a rollout's patience."""
    for one in replicas.in_places:
        if one.again_at is not None and one.again_at > now:
            yield one.again_at - now
    # Those born now count: nothing wakes the run while they wait in the queue.
    following = replace(replicas, current=(*replicas.current, *born))
    if (left := following.waits_for_room(now)) is not None and replicas.old and left > timedelta(0):
        yield left
    for job in replicas.current:
        if job.unready_since is not None and (rest := ROLLOUT_FOR - (now - job.unready_since)) > timedelta(0):
            yield rest


def _roll_back(view: RunView, why: str) -> Next:
    """Return to the spec before the rollout, in a revision of its own."""
    run, rollout, back = view.run, view.run.rollout, view.way_back
    assert rollout is not None and rollout.back_to_deployment is not None and back is not None
    rolled_back = replace(
        run,
        revision=run.revision + 1,
        spec=restored(back, run.current),
        deployment=rollout.back_to_deployment,
        rollout=Rollout(view.now),
        detail=f"revision {run.revision} was rolled back: {why}",
    )
    return Next((rolled_back,))
