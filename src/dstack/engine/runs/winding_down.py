"""TERMINATING: every job ends first, then the run."""

from dataclasses import replace

from dstack.domain.objects import Next, RunView
from dstack.domain.reasons import run_status_of
from dstack.domain.schedules import next_start
from dstack.domain.specs import configuration_in
from dstack.engine.runs.deriving import ask_to_stop
from dstack.kit.text import utc_text
from dstack.protocol.statuses import JobReason, RunStatus, cause_text


def wind_down(view: RunView) -> Next:
    """End once all jobs have; a user's wish that comes later (abort after stop) is passed on."""
    run = view.run
    assert run.reason is not None
    if all(job.status.is_finished() for job in view.jobs):
        return _await_next_start(view) or _finish(view)
    if run.stop_asked is JobReason.ABORTED_BY_USER and run.reason is JobReason.STOPPED_BY_USER:
        run = replace(run, reason=run.stop_asked)
        return Next((run, *ask_to_stop(run, view.jobs)))
    return Next(ask_to_stop(run, view.jobs))


def _finish(view: RunView) -> Next:
    run = view.run
    assert run.reason is not None
    return Next((replace(run, status=run_status_of(run.reason), status_since=view.now, finished_at=view.now),))


def _await_next_start(view: RunView) -> Next | None:
    """A run with a schedule waits for its next time, however it ended, unless a user has ended it."""
    run, schedule = view.run, configuration_in(view.run.current).schedule
    at = next_start(schedule.cron, view.now) if schedule is not None and run.stop_asked is None else None
    if at is None:
        return None
    before = "was done" if run.reason is JobReason.EXITED else f"ended ({cause_text(run.reason, run.detail)})"
    detail = f"the last attempt {before}; the next one starts at {utc_text(at)}"
    pending = replace(
        run,
        status=RunStatus.PENDING,
        status_since=view.now,
        reason=None,
        detail=detail,
        retry_at=at,
        failing_since=None,
    )
    return Next((pending,), again=at - view.now)
