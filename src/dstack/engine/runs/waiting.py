"""PENDING: wait for the time of the next attempt."""

from dataclasses import replace

from dstack.domain.births import first_jobs, next_attempt
from dstack.domain.objects import Next, RunView
from dstack.domain.specs import SERVICE
from dstack.engine.runs.deriving import end
from dstack.engine.runs.services import start_again
from dstack.protocol.statuses import RunStatus


def await_turn(view: RunView) -> Next:
    """Submit every job, once more or for the first time, when the time has come."""
    run = view.run
    if run.stop_asked is not None:
        return end(view, run.stop_asked, "")
    if run.retry_at is not None and view.now < run.retry_at:
        return Next(again=run.retry_at - view.now)
    if run.type == SERVICE:
        return start_again(view)
    submitted = replace(run, status=RunStatus.SUBMITTED, status_since=view.now, retry_at=None, detail="")
    if not view.jobs:
        return Next((submitted, *first_jobs(run, view.new_ids, view.now)))
    jobs = (next_attempt(run, job, id, view.now) for job, id in zip(view.jobs, view.new_ids, strict=False))
    return Next((submitted, *jobs))
