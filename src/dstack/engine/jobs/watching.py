"""PULLING, RUNNING: believe what the agent reports, and silence only after minutes."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.drains import DRAIN_FOR, SCALE_IN_FOR, drain_goes_on_for
from dstack.domain.objects import Instance, JobView, Next
from dstack.domain.reasons import reason_of
from dstack.domain.resting import after_failed_start, after_good_start
from dstack.domain.specs import configuration_in, inactivity_duration_of
from dstack.kit.units import duration_text
from dstack.protocol.statuses import JobReason, JobStatus

UNREACHABLE_AFTER = timedelta(minutes=5)
"""A link may be down this long before its jobs are given up: disconnection is not death."""

DEV_ENVIRONMENT = "dev-environment"
"""Only of these the configuration is asked: that takes longer than all the rest of a look."""

AGENT_ENDS_WITHIN = timedelta(minutes=1)
"""How long after its time is over a job's agent may take to end it, and to say so."""


def watch(view: JobView) -> Next:
    """End with the job, with the wish for its end, or with its machine."""
    job, instance = view.job, view.instance
    if job.stop_asked is not None and not _drain_goes_on_for(view):
        return end(view, job.stop_asked, job.detail)
    if instance is None or not instance.takes_jobs:
        return end(
            view,
            JobReason.INTERRUPTED,
            instance.detail if instance and instance.gone_at else "its machine no longer exists",
        )
    return follow_report(view)


def follow_report(view: JobView) -> Next:
    """Move as the report says; the same in every status in which the agent has the job."""
    job, report = view.job, view.job.report
    if report is not None and report.state == "ended":
        return end(view, *reason_of(report, job.stop_asked))
    if job.lost_at is not None:
        return end(view, JobReason.EXECUTOR_ERROR, "the agent on its machine no longer knows the job")
    if report is not None and report.state == "running" and job.status is not JobStatus.RUNNING:
        unready_since = view.now if report.ready is False else None
        running = replace(
            job, status=JobStatus.RUNNING, status_since=view.now, started_at=view.now, unready_since=unready_since
        )
        return Next((running, *_changed(view.instance, view.instance and after_good_start(view.instance))))
    if report is not None and report.layers and job.status is JobStatus.PROVISIONING:
        return Next((replace(job, status=JobStatus.PULLING, status_since=view.now),))
    if job.status is JobStatus.RUNNING and job.is_ready == (job.unready_since is not None):
        return Next((replace(job, unready_since=None if job.is_ready else view.now),))
    minded = [mind(view) for mind in (_mind_the_duration, _mind_the_link, _mind_the_guests, _mind_the_drain)]
    ending = next((decided for decided in minded if decided.write), None)
    return ending or Next(again=min(filter(None, (decided.again for decided in minded)), default=None))


def _mind_the_duration(view: JobView) -> Next:
    """Its agent ends it in time; where it did not, the engine does."""
    job = view.job
    if job.max_duration_s is None or job.started_at is None:
        return Next()
    left = job.started_at + timedelta(seconds=job.max_duration_s) + AGENT_ENDS_WITHIN - view.now
    if left > timedelta(0):
        return Next(again=left)
    return end(view, JobReason.MAX_DURATION_EXCEEDED, "its agent did not end it in time")


def _mind_the_guests(view: JobView) -> Next:
    """End what nobody has been connected to for its `inactivity_duration`.

    While the link is down nobody knows who comes. The host's clock may be wrong: only spans of it are believed.
    """
    job, report, instance = view.job, view.job.report, view.instance
    if view.run.type != DEV_ENVIRONMENT:
        return Next()
    limit_s = inactivity_duration_of(configuration_in(view.run.current))
    if limit_s is None or job.started_at is None or instance is None or instance.unreachable_since is not None:
        return Next()
    if report is None or report.alone_since is None or report.started_at is None:
        return Next()
    alone_since = job.started_at + timedelta(seconds=report.alone_since - report.started_at)
    left = alone_since + timedelta(seconds=limit_s) - view.now
    if left > timedelta(0):
        return Next(again=left)
    return end(view, JobReason.INACTIVITY, f"no user was connected for {duration_text(limit_s)}")


def _mind_the_link(view: JobView) -> Next:
    since = view.instance.unreachable_since if view.instance else None
    if since is None:
        return Next()
    silent = view.now - since
    if silent >= UNREACHABLE_AFTER:
        minutes = int(UNREACHABLE_AFTER.total_seconds() // 60)
        return end(view, JobReason.INSTANCE_UNREACHABLE, f"the machine did not answer for {minutes} minutes")
    return Next(again=UNREACHABLE_AFTER - silent)


def _mind_the_drain(view: JobView) -> Next:
    return Next(again=_drain_goes_on_for(view))


def _drain_goes_on_for(view: JobView) -> timedelta | None:
    """Return the time until the next look at the job's drain; None where it does not drain any more."""
    job = view.job
    if job.draining_since is None:
        return None
    missing = view.data_planes.difference(job.drained_by)
    longest = SCALE_IN_FOR if job.stop_asked is JobReason.SCALED_DOWN else DRAIN_FOR
    return drain_goes_on_for(job.draining_since, missing, view.now, longest) or None


def end(view: JobView, reason: JobReason, detail: str = "") -> Next:
    """Start to end the job for this reason."""
    terminating = replace(view.job, status=JobStatus.TERMINATING, status_since=view.now, reason=reason, detail=detail)
    failed = view.instance if reason is JobReason.HOST_ERROR else None
    return Next((terminating, *_changed(failed, failed and after_failed_start(failed, detail, view.now))))


def _changed(before: Instance | None, after: Instance | None) -> tuple[Instance, ...]:
    return () if after is None or after == before else (after,)
