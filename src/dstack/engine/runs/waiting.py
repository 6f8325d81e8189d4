"""PENDING: wait for the time of the next attempt."""

from dataclasses import replace

from dstack.domain.objects import Job, Next, RunView
from dstack.engine.runs.deriving import end
from dstack.protocol.statuses import JobStatus, RunStatus


def await_turn(view: RunView) -> Next:
    """Submit every job once more when the time has come."""
    run = view.run
    if run.stop_asked is not None:
        return end(view, run.stop_asked, "")
    if run.retry_at is not None and view.now < run.retry_at:
        return Next(again=run.retry_at - view.now)
    submitted = replace(run, status=RunStatus.SUBMITTED, status_since=view.now, retry_at=None, detail="")
    return Next((submitted, *(_again(job, id, view) for job, id in zip(view.jobs, view.new_ids, strict=False))))


def _again(job: Job, id: str, view: RunView) -> Job:
    return Job(
        id=id,
        run_id=job.run_id,
        project_id=job.project_id,
        replica=job.replica,
        node=job.node,
        nodes=job.nodes,
        attempt=job.attempt + 1,
        status=JobStatus.SUBMITTED,
        status_since=view.now,
        submitted_at=view.now,
        demand=job.demand,
        stop_grace_s=job.stop_grace_s,
        max_duration_s=job.max_duration_s,
    )
