"""What a wish to stop or abort does in every status, and what ends a job that nobody wished to end."""

from datetime import timedelta

import pytest

from dstack.domain.intents import Done, Failed, LaunchMachine, StartJob, StopJob
from dstack.domain.objects import Next
from dstack.engine.instances.keeping import idle
from dstack.engine.instances.launching import launch
from dstack.engine.jobs.watching import AGENT_ENDS_WITHIN, watch
from dstack.engine.lifecycles import INSTANCE, JOB, RUN
from dstack.errors import NoCapacityError
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus, RunStatus
from tests.making import NOW, ended, instance, instance_view, job, job_view, placed_job, report, run, run_view

STOP, ABORT = JobReason.STOPPED_BY_USER, JobReason.ABORTED_BY_USER
BEFORE_END = [status for status in JobStatus if not status.is_finished() and status is not JobStatus.TERMINATING]


@pytest.mark.parametrize("wish", [STOP, ABORT])
@pytest.mark.parametrize("status", BEFORE_END)
def test_a_wish_ends_a_job_from_every_status(status: JobStatus, wish: JobReason) -> None:
    wanted = job if status is JobStatus.SUBMITTED else placed_job
    step = JOB.step(status)
    assert step is not None
    (ending,) = step(job_view(wanted(status=status, stop_asked=wish), instance())).write
    assert (ending.status, ending.reason) == (JobStatus.TERMINATING, wish)


@pytest.mark.parametrize("wish, grace_s, final", [(STOP, 10.0, JobStatus.TERMINATED), (ABORT, 0.0, JobStatus.ABORTED)])
def test_a_stop_leaves_time_an_abort_leaves_none_and_each_has_its_own_final_status(
    wish: JobReason, grace_s: float, final: JobStatus
) -> None:
    step = JOB.step(JobStatus.TERMINATING)
    assert step is not None
    ending = placed_job(status=JobStatus.TERMINATING, reason=wish, stop_asked=wish, report=report())
    started = {StartJob: Done({})}
    assert step(job_view(ending, instance(), outcomes=started)).do == (StopJob("0-job", "0-instance", grace_s),)
    over = placed_job(status=JobStatus.TERMINATING, reason=wish, stop_asked=wish, report=ended(end="stopped"))
    (final_job,) = step(job_view(over, instance(), outcomes=started)).write
    assert final_job.status is final


@pytest.mark.parametrize("wish", [STOP, ABORT])
@pytest.mark.parametrize("status", [status for status in RunStatus if not status.is_finished()])
def test_a_wish_ends_a_run_from_every_status(status: RunStatus, wish: JobReason) -> None:
    step = RUN.step(status)
    assert step is not None
    over = placed_job(status=JobStatus.FAILED, reason=JobReason.EXECUTOR_ERROR, finished_at=NOW)
    alive = placed_job(status=JobStatus.RUNNING)
    reason = STOP if status is RunStatus.TERMINATING else None
    asked = run(status=status, stop_asked=wish, reason=reason, retry_at=NOW + timedelta(hours=1))
    decided = step(run_view(asked, over if status is RunStatus.PENDING else alive))
    ending = decided.write[0]
    if status is RunStatus.TERMINATING and wish is STOP:
        assert [one.stop_asked for one in decided.write] == [STOP]
    else:
        assert (ending.status, ending.reason) == (RunStatus.TERMINATING, wish)


def test_a_job_that_runs_longer_than_it_may_is_ended_even_when_its_agent_does_not() -> None:
    running = placed_job(status=JobStatus.RUNNING, started_at=NOW, max_duration_s=3600, report=report())
    late = NOW + timedelta(hours=1) + AGENT_ENDS_WITHIN
    early = watch(job_view(running, instance(), now=late - timedelta(seconds=1)))
    assert early == Next(again=timedelta(seconds=1))
    (ending,) = watch(job_view(running, instance(), now=late)).write
    assert (ending.status, ending.reason) == (JobStatus.TERMINATING, JobReason.MAX_DURATION_EXCEEDED)
    silent = instance(unreachable_since=late)
    (ending,) = watch(job_view(running, silent, now=late)).write
    assert ending.reason is JobReason.MAX_DURATION_EXCEEDED


@pytest.mark.parametrize("status", [JobStatus.PULLING, JobStatus.RUNNING])
def test_a_job_whose_machine_was_reclaimed_is_interrupted(status: JobStatus) -> None:
    reclaimed = instance(status=InstanceStatus.TERMINATING, gone_at=NOW, detail="aws does not have it any more")
    (ending,) = watch(job_view(placed_job(status=status), reclaimed)).write
    assert (ending.reason, ending.detail) == (JobReason.INTERRUPTED, "aws does not have it any more")


@pytest.mark.parametrize("status", [InstanceStatus.PROVISIONING, InstanceStatus.IDLE, InstanceStatus.BUSY])
def test_an_instance_whose_machine_is_gone_is_ended_at_once(status: InstanceStatus) -> None:
    step = INSTANCE.step(status)
    assert step is not None
    busy = (placed_job(),) if status is InstanceStatus.BUSY else ()
    (ending,) = step(instance_view(instance(status=status, gone_at=NOW), *busy)).write
    assert (ending.status, ending.reason) == (InstanceStatus.TERMINATING, InstanceReason.UNREACHABLE)
    assert "reclaimed or deleted" in ending.detail


@pytest.mark.parametrize(
    "idle_s, duration_s, ends",
    [(0, 0, True), (0, 300, False), (299, 300, False), (300, 300, True), (10**7, None, False)],
)
def test_an_idle_machine_is_ended_when_its_time_is_over_and_never_where_there_is_none(
    idle_s: float, duration_s: float | None, ends: bool
) -> None:
    duration = None if duration_s is None else timedelta(seconds=duration_s)
    decided = idle(instance_view(instance(idle_duration=duration), now=NOW + timedelta(seconds=idle_s)))
    assert [one.reason for one in decided.write] == ([InstanceReason.IDLE_TIMEOUT] if ends else [])


def test_a_sold_out_machine_was_never_there() -> None:
    pending = instance(status=InstanceStatus.PENDING, machine_id=None)
    outcomes = {LaunchMachine: Failed(NoCapacityError("m5.large is sold out"))}
    (gone,) = launch(instance_view(pending, outcomes=outcomes)).write
    assert (gone.status, gone.reason) == (InstanceStatus.TERMINATED, InstanceReason.NO_OFFERS)
