from datetime import timedelta
from typing import Any

from dstack.domain.objects import Job, Next
from dstack.engine.runs.deriving import derive
from dstack.engine.runs.waiting import await_turn
from dstack.engine.runs.winding_down import wind_down
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from tests.making import NOW, job, placed_job, run, run_view

RETRYING = {"configuration": {"type": "task", "commands": ["true"], "retry": True}}


def test_a_run_runs_with_its_first_running_job() -> None:
    jobs = (placed_job(nodes=2), placed_job(id="1-job", node=1, nodes=2, status=JobStatus.RUNNING))
    (written,) = derive(run_view(run(), *jobs)).write
    assert (written.status, written.started_at) == (RunStatus.RUNNING, NOW)


def test_a_run_whose_jobs_are_all_done_is_done() -> None:
    done = placed_job(status=JobStatus.DONE, reason=JobReason.EXITED, finished_at=NOW)
    (ending,) = derive(run_view(run(status=RunStatus.RUNNING), done)).write
    assert (ending.status, ending.reason) == (RunStatus.TERMINATING, JobReason.EXITED)
    (over,) = wind_down(run_view(ending, done)).write
    assert (over.status, over.finished_at) == (RunStatus.DONE, NOW)


def test_one_failed_node_ends_the_others() -> None:
    failed = placed_job(nodes=2, status=JobStatus.TERMINATING, reason=JobReason.CONTAINER_EXITED_WITH_ERROR)
    healthy = placed_job(id="1-job", node=1, nodes=2, status=JobStatus.RUNNING)
    ending, *told = derive(run_view(run(status=RunStatus.RUNNING), failed, healthy)).write
    assert (ending.status, ending.reason) == (RunStatus.TERMINATING, JobReason.CONTAINER_EXITED_WITH_ERROR)
    assert {one.id: one.stop_asked for one in told}["1-job"] is JobReason.SERVER


def test_a_users_stop_reaches_every_job() -> None:
    asked = run(status=RunStatus.RUNNING, stop_asked=JobReason.STOPPED_BY_USER)
    ending, told = derive(run_view(asked, placed_job(status=JobStatus.RUNNING))).write
    assert (ending.reason, told.stop_asked) == (JobReason.STOPPED_BY_USER, JobReason.STOPPED_BY_USER)


def test_an_abort_after_a_stop_is_passed_on() -> None:
    ending = run(status=RunStatus.TERMINATING, reason=JobReason.STOPPED_BY_USER, stop_asked=JobReason.ABORTED_BY_USER)
    stopping = placed_job(status=JobStatus.TERMINATING, stop_asked=JobReason.STOPPED_BY_USER)
    _, told = wind_down(run_view(ending, stopping)).write
    assert told.stop_asked is JobReason.ABORTED_BY_USER


def test_a_failed_run_that_may_be_retried_waits_and_is_submitted_again() -> None:
    failed = placed_job(status=JobStatus.FAILED, reason=JobReason.CONTAINER_EXITED_WITH_ERROR, finished_at=NOW)
    decided = derive(run_view(run(spec=RETRYING, status=RunStatus.RUNNING), failed))
    (waiting,) = decided.write
    assert waiting.status is RunStatus.PENDING
    assert decided.again is not None
    again, second = await_turn(run_view(waiting, failed, now=NOW + decided.again)).write
    assert again.status is RunStatus.SUBMITTED
    assert (second.id, second.attempt, second.status, second.version) == ("0-new-0", 2, JobStatus.SUBMITTED, 0)


def test_a_retry_never_starts_beside_what_is_left_of_the_last_attempt() -> None:
    failed = placed_job(nodes=2, status=JobStatus.FAILED, reason=JobReason.EXECUTOR_ERROR, finished_at=NOW)
    left = placed_job(id="1-job", node=1, nodes=2, status=JobStatus.RUNNING)
    (told,) = derive(run_view(run(spec=RETRYING, status=RunStatus.RUNNING), failed, left)).write
    assert (told.id, told.stop_asked) == ("1-job", JobReason.SERVER)


def test_failed_node_whose_output_still_comes_is_not_asked_to_end() -> None:
    reason = JobReason.CONTAINER_EXITED_WITH_ERROR
    failed = placed_job(nodes=2, status=JobStatus.TERMINATING, reason=reason)
    left = placed_job(id="1-job", node=1, nodes=2, status=JobStatus.RUNNING)
    (told,) = derive(run_view(run(spec=RETRYING, status=RunStatus.RUNNING), failed, left)).write
    assert told.id == "1-job", "else it could not be told from those that were ended with it"


def test_node_that_was_ended_with_a_failed_one_is_not_the_reason() -> None:
    """The other node may be over before the last log bytes of the failed one have come."""
    ended = placed_job(nodes=2, status=JobStatus.TERMINATED, reason=JobReason.SERVER, stop_asked=JobReason.SERVER)
    reason = JobReason.CONTAINER_EXITED_WITH_ERROR
    late = NOW + timedelta(seconds=1)
    failed = placed_job(id="1-job", node=1, nodes=2, status=JobStatus.FAILED, reason=reason, status_since=late)
    (waiting,) = derive(run_view(run(spec=RETRYING, status=RunStatus.RUNNING), ended, failed, now=late)).write
    assert waiting.status is RunStatus.PENDING
    ending, *_ = derive(run_view(run(status=RunStatus.RUNNING), ended, failed, now=late)).write
    assert ending.reason is reason


def test_a_run_is_not_retried_beyond_its_duration() -> None:
    failed = placed_job(status=JobStatus.FAILED, reason=JobReason.CONTAINER_EXITED_WITH_ERROR, finished_at=NOW)
    late = NOW + timedelta(hours=1)
    failing = run(spec=RETRYING, status=RunStatus.RUNNING, failing_since=NOW)
    ending, *_ = derive(run_view(failing, failed, now=late)).write
    assert ending.status is RunStatus.TERMINATING


def test_a_waiting_run_can_be_stopped() -> None:
    waiting = run(status=RunStatus.PENDING, retry_at=NOW + timedelta(hours=1), stop_asked=JobReason.STOPPED_BY_USER)
    (ending,) = await_turn(run_view(waiting, job(status=JobStatus.FAILED, finished_at=NOW))).write
    assert ending.status is RunStatus.TERMINATING


def test_nothing_new_is_nothing_to_write() -> None:
    assert derive(run_view(run(status=RunStatus.PROVISIONING), placed_job())) == Next()


def gang(worker: JobStatus, **master: Any) -> tuple[Job, ...]:
    return (
        placed_job(nodes=2, **master),
        placed_job(id="1-job", node=1, nodes=2, status=worker),
    )


def test_a_run_may_be_done_with_its_master() -> None:
    done = {"status": JobStatus.DONE, "reason": JobReason.EXITED, "finished_at": NOW}
    for criteria, is_over in (("master-done", True), ("all-done", False)):
        spec = {"configuration": {"type": "task", "commands": ["x"], "nodes": 2, "stop_criteria": criteria}}
        written = derive(run_view(run(spec=spec, status=RunStatus.RUNNING), *gang(JobStatus.RUNNING, **done))).write
        assert bool(written) == is_over
        if is_over:
            ending, told = written
            assert (ending.status, ending.reason) == (RunStatus.TERMINATING, JobReason.EXITED)
            assert told.stop_asked is JobReason.SERVER


SCHEDULED = {"configuration": {"type": "task", "commands": ["true"], "schedule": {"cron": "30 12 * * *"}}}


def test_a_run_with_a_schedule_waits_for_its_next_time_however_it_ended() -> None:
    for reason in (JobReason.EXITED, JobReason.CONTAINER_EXITED_WITH_ERROR):
        over = placed_job(status=JobStatus.DONE, reason=reason, finished_at=NOW)
        ending = run(spec=SCHEDULED, status=RunStatus.TERMINATING, reason=reason, started_at=NOW)
        decided = wind_down(run_view(ending, over))
        (waiting,) = decided.write
        assert (waiting.status, waiting.reason, decided.again) == (RunStatus.PENDING, None, timedelta(minutes=30))
        again, second = await_turn(run_view(waiting, over, now=NOW + timedelta(minutes=30))).write
        assert (again.status, second.attempt) == (RunStatus.SUBMITTED, 2)


def test_a_run_with_a_schedule_ends_when_a_user_ends_it() -> None:
    stopped = run(
        spec=SCHEDULED,
        status=RunStatus.TERMINATING,
        reason=JobReason.STOPPED_BY_USER,
        stop_asked=JobReason.STOPPED_BY_USER,
    )
    (over,) = wind_down(run_view(stopped)).write
    assert (over.status, over.finished_at) == (RunStatus.TERMINATED, NOW)


def test_a_run_that_has_waited_for_its_first_time_gets_its_jobs() -> None:
    spec = {"configuration": {**SCHEDULED["configuration"], "nodes": 2}}
    waiting = run(spec=spec, status=RunStatus.PENDING, retry_at=NOW)
    submitted, *jobs = await_turn(run_view(waiting)).write
    assert submitted.status is RunStatus.SUBMITTED
    assert [(job.id, job.node, job.nodes, job.attempt) for job in jobs] == [
        ("0-new-0", 0, 2, 1),
        ("0-new-1", 1, 2, 1),
    ]
