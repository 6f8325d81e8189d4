"""TERMINATING: every job ends first, then the run."""

from dataclasses import replace

from dstack.domain.objects import Next, RunView
from dstack.domain.reasons import run_status_of
from dstack.engine.runs.deriving import ask_to_stop
from dstack.protocol.statuses import JobReason


def wind_down(view: RunView) -> Next:
    """End once all jobs have; a user's wish that comes later (abort after stop) is passed on."""
    run = view.run
    assert run.reason is not None
    if all(job.status.is_finished() for job in view.jobs):
        return Next((replace(run, status=run_status_of(run.reason), status_since=view.now, finished_at=view.now),))
    if run.stop_asked is JobReason.ABORTED_BY_USER and run.reason is JobReason.STOPPED_BY_USER:
        run = replace(run, reason=run.stop_asked)
        return Next((run, *ask_to_stop(run, view.jobs)))
    return Next(ask_to_stop(run, view.jobs))
