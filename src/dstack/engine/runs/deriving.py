"""SUBMITTED, PROVISIONING, RUNNING: a task or a dev environment is what its jobs are."""

from collections.abc import Iterable
from dataclasses import replace

from dstack.domain.objects import Job, Next, Run, RunView
from dstack.domain.reasons import job_status_of
from dstack.domain.retries import failing_since, retry_at
from dstack.domain.specs import configuration_in, retry_policy_of
from dstack.kit.text import utc_text
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus, cause_text

_STARTING = (JobStatus.PROVISIONING, JobStatus.PULLING)


def derive(view: RunView) -> Next:
    """Follow the jobs; end with the first of them that did not end well, or with the last that did."""
    run = view.run
    if run.stop_asked is not None:
        return end(view, run.stop_asked, "")
    if (failed := first_failed(view.jobs)) is not None:
        return _retry_or_end(view, failed)
    if all(job.status is JobStatus.DONE for job in view.jobs) or _master_is_done(view):
        return end(view, JobReason.EXITED, "")
    status = status_of(view.jobs)
    if status is run.status:
        return Next()
    started_at = view.now if status is RunStatus.RUNNING and run.started_at is None else run.started_at
    return Next((replace(run, status=status, status_since=view.now, started_at=started_at),))


def _master_is_done(view: RunView) -> bool:
    master = next((job for job in view.jobs if job.node == 0), None)
    done = master is not None and master.status is JobStatus.DONE
    return done and configuration_in(view.run.current).stop_criteria == "master-done"


def status_of(jobs: Iterable[Job]) -> RunStatus:
    """Return the status of a run with these jobs."""
    statuses = {job.status for job in jobs}
    if JobStatus.RUNNING in statuses or JobStatus.TERMINATING in statuses or JobStatus.DONE in statuses:
        return RunStatus.RUNNING
    return RunStatus.PROVISIONING if statuses.intersection(_STARTING) else RunStatus.SUBMITTED


def _retry_or_end(view: RunView, failed: Job) -> Next:
    """Nothing of the failed attempt may still be there when the next one starts."""
    run, reason = view.run, failed.reason
    assert reason is not None
    since = failing_since(run.failing_since, failed.started_at, view.now)
    held = None if run.launches is None else run.launches.held_until(len(view.jobs), view.now)
    policy = retry_policy_of(configuration_in(run.current))
    at = retry_at(policy, reason, since=since, now=view.now, held_until=held)
    details = [failed.detail, run.launches.title if held is not None and run.launches is not None else ""]
    failed = replace(failed, detail="; ".join(filter(None, details)))
    if at is None:
        return end(view, reason, failed.detail)
    unfinished = [job for job in view.jobs if not job.status.is_finished()]
    if unfinished:
        running = [job for job in unfinished if job.reason is None and job.stop_asked is None]
        return Next(tuple(_ask(job, JobReason.SERVER) for job in running))
    why = cause_text(reason, failed.detail)
    detail = f"attempt {failed.attempt} failed ({why}); attempt {failed.attempt + 1} starts at {utc_text(at)}"
    pending = replace(
        run, status=RunStatus.PENDING, status_since=view.now, retry_at=at, failing_since=since, detail=detail
    )
    return Next((pending,), again=at - view.now)


def first_failed(jobs: Iterable[Job]) -> Job | None:
    """Return the first of the jobs that did not end well; None where there is none.

    A job that the run itself ended is no reason, though it may be over before the one that failed.
    """
    bad = [job for job in jobs if job.reason is not None and job.reason is not JobReason.EXITED]
    return min(bad, key=lambda job: (job.stop_asked is not None, job.status_since), default=None)


def end(view: RunView, reason: JobReason, detail: str) -> Next:
    """Start to wind the run down for this reason."""
    terminating = replace(
        view.run, status=RunStatus.TERMINATING, status_since=view.now, reason=reason, detail=detail, retry_at=None
    )
    return Next((terminating, *ask_to_stop(terminating, view.jobs)))


def ask_to_stop(run: Run, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    """The unfinished jobs, told to end as the run does."""
    assert run.reason is not None
    ends_well = job_status_of(run.reason) in (JobStatus.DONE, JobStatus.FAILED)
    asked = run.stop_asked or (JobReason.SERVER if ends_well else run.reason)
    return tuple(_ask(job, asked) for job in jobs if not job.status.is_finished() and job.stop_asked != asked)


def _ask(job: Job, reason: JobReason) -> Job:
    return replace(job, stop_asked=reason, draining_since=None)
