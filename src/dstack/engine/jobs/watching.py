"""PULLING, RUNNING: believe what the agent reports, and silence only after minutes."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.objects import JobView, Next
from dstack.domain.reasons import reason_of
from dstack.protocol.statuses import JobReason, JobStatus

UNREACHABLE_AFTER = timedelta(minutes=5)
"""A link may be down this long before its jobs are given up: disconnection is not death."""


def watch(view: JobView) -> Next:
    """End with the job, with the wish for its end, or with its machine."""
    job, instance = view.job, view.instance
    if job.stop_asked is not None:
        return end(view, job.stop_asked)
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
    return _mind_the_link(view)


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
