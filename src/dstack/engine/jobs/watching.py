"""PULLING, RUNNING: believe what the agent reports, and silence only after minutes."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.objects import JobView, Next
from dstack.domain.reasons import reason_of
from dstack.protocol.statuses import JobReason, JobStatus

UNREACHABLE_AFTER = timedelta(minutes=5)
"""A link may be down this long before its jobs are given up: disconnection is not death."""


AGENT_ENDS_WITHIN = timedelta(minutes=1)
"""How long after its time is over a job's agent may take to end it, and to say so."""


def watch(view: JobView) -> Next:
    """End with the job, with the wish for its end, or with its machine."""
    job, instance = view.job, view.instance
    if job.stop_asked is not None:
        return end(view, job.stop_asked, job.detail)
    if instance is None or not instance.takes_jobs:
        return end(
            view, JobReason.INTERRUPTED, instance.detail if instance and instance.gone_at else "its machine is gone"
        )
    return follow_report(view)


def follow_report(view: JobView) -> Next:
    """Move as the report says; the same in every status in which the agent has the job."""
    job, report = view.job, view.job.report
    if report is not None and report.state == "ended":
        return end(view, *reason_of(report, job.stop_asked))
    if job.lost_at is not None:
        return end(view, JobReason.EXECUTOR_ERROR, "the agent on its machine does not know the job any more")
    if report is not None and report.state == "running" and job.status is not JobStatus.RUNNING:
        running = replace(job, status=JobStatus.RUNNING, status_since=view.now, started_at=view.now)
        return Next((running,))
    if report is not None and report.layers and job.status is JobStatus.PROVISIONING:
        return Next((replace(job, status=JobStatus.PULLING, status_since=view.now),))
    if job.status is JobStatus.RUNNING and (over := _time_left(view)) is not None and over <= timedelta(0):
        return end(view, JobReason.MAX_DURATION_EXCEEDED, "its agent did not end it in time")
    following = _mind_the_link(view)
    if following.write:
        return following
    return Next(again=min(filter(None, [following.again, _time_left(view)]), default=None))


def _time_left(view: JobView) -> timedelta | None:
    """Until it has run for longer than it may, and its agent should have ended it long ago."""
    job = view.job
    if job.max_duration_s is None or job.started_at is None:
        return None
    return job.started_at + timedelta(seconds=job.max_duration_s) + AGENT_ENDS_WITHIN - view.now


def _mind_the_link(view: JobView) -> Next:
    since = view.instance.unreachable_since if view.instance else None
    if since is None:
        return Next()
    silent = view.now - since
    if silent >= UNREACHABLE_AFTER:
        minutes = int(UNREACHABLE_AFTER.total_seconds() // 60)
        return end(view, JobReason.INSTANCE_UNREACHABLE, f"the machine did not answer for {minutes} minutes")
    return Next(again=UNREACHABLE_AFTER - silent)


def end(view: JobView, reason: JobReason, detail: str = "") -> Next:
    """Start to end the job for this reason."""
    terminating = replace(view.job, status=JobStatus.TERMINATING, status_since=view.now, reason=reason, detail=detail)
    return Next((terminating,))
