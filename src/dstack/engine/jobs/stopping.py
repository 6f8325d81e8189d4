"""TERMINATING: the processes end, the last log bytes arrive, then the job is over."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.intents import Failed, ForgetJob, StartJob, StopJob
from dstack.domain.objects import Job, JobView, Next
from dstack.domain.reasons import job_status_of
from dstack.protocol.statuses import JobReason

LOGS_WITHIN = timedelta(minutes=5)
"""How long after the end its last log bytes are waited for while the link is up."""


def stop(view: JobView) -> Next:
    """End what the agent may have of the job; without an agent there is nothing to end."""
    job, instance = view.job, view.instance
    if instance is None or instance.machine_id is None or StartJob not in view.outcomes:
        return _finish(view, job)
    if not instance.takes_jobs and instance.finished_at is not None:
        return _finish(view, job)
    if job.report is None or job.report.state != "ended":
        return _ask_to_end(view)
    if job.report.logged:
        return _finish(view, job, forget=True)
    if instance.unreachable_since is not None:
        return Next()  # nothing can come; the machine is given up when that takes too long
    if view.age >= LOGS_WITHIN:
        note = f"the last log bytes did not arrive within {LOGS_WITHIN.total_seconds():.0f} s"
        return _finish(view, replace(job, detail="; ".join(filter(None, [job.detail, note]))), forget=True)
    return Next(again=LOGS_WITHIN - view.age)


def _ask_to_end(view: JobView) -> Next:
    """Where nobody answers, the job may live on: it is over with its machine, lest another attempt run beside it."""
    job, instance = view.job, view.instance
    assert instance is not None
    if job.lost_at is not None or isinstance(view.outcomes.get(StartJob), Failed):
        return _finish(view, job, forget=True)
    grace_s = 0.0 if job.stop_asked is JobReason.ABORTED_BY_USER else job.stop_grace_s
    return Next(do=(StopJob(job.id, instance.id, grace_s),))


def _finish(view: JobView, job: Job, *, forget: bool = False) -> Next:
    assert job.reason is not None
    report = job.report
    ended = replace(
        job,
        status=job_status_of(job.reason),
        status_since=view.now,
        finished_at=view.now,
        exit_code=report.exit_code if report else None,
        signal=report.signal if report else None,
    )
    do = (ForgetJob(job.id, job.instance_id),) if forget and job.instance_id else ()
    return Next((ended,), do)
