"""The replicas of a service: each is replaced alone, and a new revision replaces them one by one."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dstack.domain.launches import FAILED_MAX, Launches
from dstack.domain.objects import Job, Next, Revision, Run, RunView
from dstack.domain.rollouts import NO_ROOM_AFTER, ROLLOUT_FOR, ROLLOUT_TRIES, Rollout
from dstack.engine.runs.following import follow
from dstack.engine.runs.waiting import await_turn
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from tests.making import NOW, job, placed_job, report, run

FAILED = {
    "status": JobStatus.FAILED,
    "reason": JobReason.CONTAINER_EXITED_WITH_ERROR,
    "detail": "exit code 1",
    "started_at": NOW - timedelta(minutes=1),
    "finished_at": NOW,
}
LATER = NOW + timedelta(seconds=5)
GONE = {"status": JobStatus.TERMINATED, "finished_at": NOW, "started_at": NOW - timedelta(hours=1)}


def service(replicas: int = 3, /, status: RunStatus = RunStatus.RUNNING, **fields: Any) -> Run:
    configuration = {"type": "service", "port": 80, "commands": ["x"], "replicas": replicas}
    configuration |= fields.pop("configuration", {})
    return run(type="service", status=status, started_at=NOW, spec={"configuration": configuration}, **fields)


def retried(replicas: int = 3, /, **fields: Any) -> Run:
    return service(replicas, configuration={"retry": True}, **fields)


def replica(number: int, *, ready: bool | None = True, **fields: Any) -> Job:
    """A replica that runs."""
    id = f"{number}-job"
    said = report(job_id=id, ready=ready, unready_reason="" if ready else "nothing listens at port 80")
    since = NOW - timedelta(minutes=1)
    unready_since = since if ready is False else None
    running = {"status": JobStatus.RUNNING, "report": said, "started_at": since, "unready_since": unready_since}
    return placed_job(**{"id": id, "replica": number, **running, **fields})


def new(number: int, **fields: Any) -> Job:
    """A replica of the deployment that a rollout brings."""
    return replica(number, **{"deployment": 2, "revision": 2, **fields})


def rolling(replicas: int = 3, /, back_to: int | None = 1, *, is_forced: bool = False, **fields: Any) -> Run:
    rollout = Rollout(NOW, back_to, back_to, is_forced)
    return service(replicas, revision=2, deployment=2, rollout=rollout, **fields)


def draining(number: int, **fields: Any) -> Job:
    """A replica that was not needed a moment ago."""
    return replica(number, **{"stop_asked": JobReason.SCALED_DOWN, "draining_since": NOW, **fields})


def view(of: Run, *jobs: Job, now: datetime = NOW, **fields: Any) -> RunView:
    back = Revision(of.id, 1, {"configuration": {"type": "service", "port": 80, "commands": ["old"], "replicas": 1}})
    return RunView(of, jobs, now, tuple(f"0-new-{number}" for number in range(10)), way_back=back, **fields)


def decided(of: Run, *jobs: Job, now: datetime = NOW, **fields: Any) -> tuple[Next, list[Job], list[Job], list[Run]]:
    """Return what a step has decided: all, the jobs that are born, those that changed, and the run if it changed."""
    then = follow(view(of, *jobs, now=now, **fields))
    ours = [one for one in then.write if isinstance(one, Job)]
    known = {one.id for one in jobs}
    runs = [one for one in then.write if isinstance(one, Run)]
    return then, [one for one in ours if one.id not in known], [one for one in ours if one.id in known], runs


def leaving(changed: list[Job]) -> Mapping[int, JobReason | None]:
    return {one.replica: one.stop_asked for one in changed}


def test_replica_that_dies_is_replaced_alone_after_a_pause() -> None:
    jobs = (replica(0), replica(1, **FAILED), replica(2))
    then, born, changed, runs = decided(retried(), *jobs)
    assert (born, changed, runs, then.again) == ([], [], [], timedelta(seconds=5))
    _, (again,), changed, _ = decided(retried(), *jobs, now=LATER)
    assert (again.replica, again.attempt, again.status, changed) == (1, 2, JobStatus.SUBMITTED, [])
    assert (again.failing_since, again.failures) == (NOW, 1)


def test_replica_that_ends_is_not_replaced_before_it_is_over() -> None:
    dying = replica(1, status=JobStatus.TERMINATING, reason=JobReason.CONTAINER_EXITED_WITH_ERROR)
    assert follow(view(retried(), replica(0), dying, replica(2), now=LATER)) == Next()


def test_pauses_grow_for_each_replica_by_itself() -> None:
    failing = {**FAILED, "failing_since": NOW - timedelta(minutes=3), "failures": 4}
    then, born, _, _ = decided(retried(2), replica(0, **FAILED), replica(1, **failing), now=LATER)
    assert [(one.replica, one.failures) for one in born] == [(0, 1)]
    assert then.again == timedelta(minutes=3) - timedelta(seconds=5)


def test_replica_that_ran_well_begins_a_new_row_of_failures() -> None:
    failing = {
        **FAILED,
        "failing_since": NOW - timedelta(hours=3),
        "failures": 4,
        "started_at": NOW - timedelta(hours=1),
    }
    _, (again,), _, _ = decided(retried(2), replica(0), replica(1, **failing), now=LATER)
    assert (again.failing_since, again.failures) == (NOW, 1)


def test_launches_in_vain_hold_one_replica_alone() -> None:
    vain = Launches(NOW - timedelta(minutes=10), failed=FAILED_MAX)
    jobs = (replica(0, **FAILED, launches=vain), replica(1, **FAILED))
    then, born, _, _ = decided(retried(2), *jobs, now=LATER)
    assert [one.replica for one in born] == [1]
    assert then.again == timedelta(minutes=50) - timedelta(seconds=5)


@pytest.mark.parametrize("reason", [JobReason.CONTAINER_EXITED_WITH_ERROR, JobReason.EXITED])
def test_service_without_retry_goes_on_with_the_others(reason: JobReason) -> None:
    lost = replica(1, **{**FAILED, "reason": reason})
    assert follow(view(service(), replica(0), lost, replica(2), now=LATER)) == Next()
    assert follow(view(service(2), replica(0, ready=False), lost, now=LATER)).write == (), "it may become ready"


def test_service_without_retry_fails_once_none_is_left() -> None:
    first = replica(0, **{**FAILED, "finished_at": NOW - timedelta(minutes=1)}, status_since=NOW - timedelta(minutes=1))
    ending, *_ = follow(view(service(2), first, replica(1, **{**FAILED, "detail": "exit code 2"}))).write
    assert (ending.status, ending.reason) == (RunStatus.TERMINATING, JobReason.CONTAINER_EXITED_WITH_ERROR)
    assert ending.detail == "exit code 1"


def test_service_whose_replicas_have_all_exited_well_is_done() -> None:
    over = {**FAILED, "reason": JobReason.EXITED, "status": JobStatus.DONE, "detail": ""}
    ending, *_ = follow(view(service(2), replica(0, **over), replica(1, **over))).write
    assert (ending.status, ending.reason) == (RunStatus.TERMINATING, JobReason.EXITED)


def test_change_of_the_run_gives_a_lost_replica_another_chance() -> None:
    changed = service(2, revision=2)
    _, (again,), _, _ = decided(changed, replica(0), replica(1, **FAILED), now=LATER, revised_at=LATER)
    assert (again.replica, again.attempt, again.revision, again.failures) == (1, 2, 2, 0)


def test_service_with_nothing_but_failures_waits_for_the_first_next_attempt() -> None:
    jobs = (replica(0, **FAILED), replica(1, **FAILED, failing_since=NOW - timedelta(minutes=1)))
    then, _, _, (waiting,) = decided(retried(2), *jobs)
    assert (waiting.status, waiting.retry_at, then.again) == (RunStatus.PENDING, LATER, timedelta(seconds=5))
    assert waiting.detail.startswith("attempt 1 failed (exit code 1); attempt 2 starts at ")
    submitted, again = await_turn(view(waiting, *jobs, now=LATER)).write
    assert (submitted.status, submitted.detail) == (RunStatus.SUBMITTED, "")
    assert isinstance(again, Job) and (again.replica, again.attempt) == (0, 2)


def test_schedule_begins_all_replicas_anew() -> None:
    waiting = service(2, status=RunStatus.PENDING, retry_at=NOW)
    over = {"status": JobStatus.TERMINATED, "reason": JobReason.MAX_DURATION_EXCEEDED, "finished_at": NOW}
    submitted, *jobs = await_turn(view(waiting, replica(1, **over))).write
    assert submitted.status is RunStatus.SUBMITTED
    assert [(one.replica, one.attempt) for one in jobs if isinstance(one, Job)] == [(0, 1), (1, 2)]


def test_users_stop_ends_draining_replicas_at_once() -> None:
    drains = replica(1, stop_asked=JobReason.SCALED_DOWN, draining_since=NOW)
    ending, *told = follow(view(service(1, stop_asked=JobReason.STOPPED_BY_USER), replica(0), drains)).write
    assert ending.status is RunStatus.TERMINATING
    assert [(one.stop_asked, one.draining_since) for one in told if isinstance(one, Job)] == [
        (JobReason.STOPPED_BY_USER, None),
        (JobReason.STOPPED_BY_USER, None),
    ]


def test_more_replicas_get_the_lowest_free_numbers() -> None:
    retired = replica(1, **GONE, reason=JobReason.SCALED_DOWN, stop_asked=JobReason.SCALED_DOWN)
    _, born, changed, _ = decided(service(4, revision=2), replica(0), retired, replica(2))
    assert [(one.replica, one.attempt) for one in born] == [(1, 2), (3, 1)]
    assert changed == []


def test_fewer_replicas_drain_unready_ones_first_then_the_newest() -> None:
    jobs = (
        replica(0, submitted_at=NOW - timedelta(minutes=1)),
        replica(1, ready=False, submitted_at=NOW - timedelta(minutes=9)),
        replica(2, submitted_at=NOW - timedelta(minutes=2)),
        replica(3, submitted_at=NOW - timedelta(minutes=3)),
    )
    _, _, changed, _ = decided(service(2), *jobs)
    assert leaving(changed) == {1: JobReason.SCALED_DOWN, 0: JobReason.SCALED_DOWN}
    assert all(one.draining_since == NOW for one in changed)


def test_replica_that_has_not_begun_is_ended_without_a_drain() -> None:
    _, _, (ended,), _ = decided(service(1), replica(0), job(id="1-job", replica=1))
    assert (ended.replica, ended.stop_asked, ended.draining_since) == (1, JobReason.SCALED_DOWN, None)


def test_failed_replica_that_is_no_longer_asked_for_does_not_come_back() -> None:
    assert follow(view(retried(1), replica(0), replica(1, **FAILED), now=LATER)) == Next()


def test_births_wait_while_others_still_end() -> None:
    ending = [replica(n, stop_asked=JobReason.SCALED_DOWN, status=JobStatus.TERMINATING) for n in (1, 2, 3)]
    _, born, _, _ = decided(service(4), replica(0), *ending)
    assert [one.replica for one in born] == [4], "never more than asked for and one"


def test_replicas_that_finish_their_requests_are_called_back_before_others_begin() -> None:
    drains = [draining(n, drained_by=("0-server",)) for n in (1, 2, 3)]
    _, born, changed, _ = decided(service(3), replica(0), *drains)
    assert (born, [one.replica for one in changed]) == ([], [1, 2]), "the third is not wanted"
    for one in changed:
        assert (one.stop_asked, one.draining_since, one.drained_by, one.is_ready) == (None, None, (), True)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_asked": JobReason.REPLACED},
        {"deployment": 9},
        {"lost_at": NOW},
        {"status": JobStatus.TERMINATING},
    ],
    ids=["replaced by an update", "of another deployment", "lost", "ending"],
)
def test_only_replicas_that_can_serve_are_called_back(fields: dict[str, Any]) -> None:
    _, born, changed, _ = decided(service(2), replica(0), draining(1, **fields))
    assert (len(born), changed) == (1, [])


def test_due_attempt_without_room_waits_for_the_end_of_a_draining_replica() -> None:
    drains = [replica(n, stop_asked=JobReason.SCALED_DOWN, draining_since=NOW) for n in (1, 2)]
    failed = replica(0, **FAILED)
    then, born, _, _ = decided(retried(1), failed, *drains, now=NOW + timedelta(minutes=10))
    assert (born, then.again) == ([], None), "a look at once would be followed by the same look, again and again"


def test_rollout_begins_with_one_replica_more() -> None:
    then, born, changed, runs = decided(rolling(), *(replica(n) for n in range(3)))
    assert [(one.replica, one.revision, one.deployment) for one in born] == [(3, 2, 2)]
    assert (changed, runs) == ([], [])
    assert then.again == NO_ROOM_AFTER, "no change of a replica that waits in the queue wakes the run"


def test_old_replica_stays_until_a_new_one_is_ready() -> None:
    olds = [replica(n) for n in range(3)]
    assert not decided(rolling(), *olds, new(3, ready=False))[2]
    _, born, (drained,), _ = decided(rolling(), *olds, new(3))
    assert (drained.replica, drained.stop_asked, drained.draining_since) == (0, JobReason.REPLACED, NOW)
    assert born == [], "the one that drains counts"


def test_next_replica_of_a_rollout_takes_the_number_of_the_one_that_has_drained() -> None:
    gone = replica(0, **GONE, reason=JobReason.REPLACED, stop_asked=JobReason.REPLACED)
    _, born, changed, _ = decided(rolling(), gone, replica(1), replica(2), new(3))
    assert [(one.replica, one.attempt, one.revision) for one in born] == [(0, 2, 2)]
    assert changed == []


def test_rollout_is_over_once_all_are_ready() -> None:
    assert not decided(rolling(2), new(0), new(1, ready=False))[3]
    _, _, _, (over,) = decided(rolling(2), new(0), new(1))
    assert over.rollout is None


def test_service_lives_until_its_last_old_replica_is_over() -> None:
    failed = new(1, **FAILED)
    ends = {"status": JobStatus.TERMINATING, "reason": JobReason.CONTAINER_EXITED_WITH_ERROR}
    assert decided(rolling(1, None), replica(0, **ends), failed) == (Next(), [], [], []), "its end wakes the run"
    _, _, changed, (ended,) = decided(rolling(1, None), replica(0, **FAILED), failed)
    assert (changed, ended.status, ended.detail) == ([], RunStatus.TERMINATING, "exit code 1")


def test_unready_old_replica_is_the_first_to_be_replaced() -> None:
    jobs = (replica(0), replica(1, ready=False), replica(2), new(3))
    assert leaving(decided(rolling(), *jobs)[2]) == {1: JobReason.REPLACED}


def test_old_replica_that_has_not_begun_is_replaced_at_once() -> None:
    queued = job(id="1-job", replica=1)
    _, born, (ended,), _ = decided(rolling(2), replica(0), queued)
    assert (ended.replica, ended.draining_since) == (1, None)
    assert [one.replica for one in born] == [2]


def test_new_replica_without_room_has_an_old_one_drained_if_two_are_ready() -> None:
    waits = job(id="9-job", replica=2, deployment=2, revision=2)
    early = decided(rolling(2), replica(0), replica(1), waits)
    assert (early[2], early[0].again) == ([], NO_ROOM_AFTER)
    late = NOW + NO_ROOM_AFTER
    assert leaving(decided(rolling(2), replica(0), replica(1), waits, now=late)[2]) == {0: JobReason.REPLACED}
    assert not decided(rolling(1), replica(0), replace(waits, replica=1), now=late)[2], "the last ready one stays"
    drains = replica(0, stop_asked=JobReason.REPLACED, draining_since=NOW)
    assert not decided(rolling(3), drains, replica(1), replica(3), waits, now=late)[2], "one at a time"


def test_unready_old_replica_makes_room_though_none_is_ready() -> None:
    waits = job(id="9-job", replica=1, deployment=2, revision=2)
    changed = decided(rolling(1), replica(0, ready=False), waits, now=NOW + NO_ROOM_AFTER)[2]
    assert leaving(changed) == {0: JobReason.REPLACED}


def test_offers_that_are_sold_out_count_as_no_room_and_not_against_the_revision() -> None:
    sold_out = {**FAILED, "reason": JobReason.NO_CAPACITY, "failures": 2, "failing_since": NOW - timedelta(minutes=1)}
    failed = new(2, **sold_out)
    then, _, changed, runs = decided(rolling(2), replica(0), replica(1), failed)
    assert leaving(changed) == {0: JobReason.REPLACED}
    assert runs == [] and then.again == timedelta(minutes=1)


def test_force_ends_all_old_replicas_at_once() -> None:
    _, _, changed, _ = decided(rolling(2, is_forced=True), replica(0), replica(1), new(2, ready=False))
    assert leaving(changed) == {0: JobReason.REPLACED, 1: JobReason.REPLACED}
    assert all(one.draining_since is None for one in changed)


def test_new_replica_that_fails_is_tried_again_whatever_retry_says() -> None:
    then, born, _, _ = decided(rolling(1), replica(0), new(1, **FAILED))
    assert (born, then.again) == ([], timedelta(seconds=5))
    _, (again,), _, _ = decided(rolling(1), replica(0), new(1, **FAILED), now=LATER)
    assert (again.replica, again.failures) == (1, 1)


def test_revision_that_fails_again_and_again_is_rolled_back_with_the_reason() -> None:
    failing = {**FAILED, "failures": ROLLOUT_TRIES - 1, "failing_since": NOW - timedelta(minutes=1)}
    changes = {"priority": 5, "replicas": 2, "commands": ["new"]}
    of = rolling(2, configuration=changes)
    _, born, changed, (back,) = decided(of, replica(0), replica(1), new(2, **failing))
    assert back.detail == "revision 2 was rolled back: replica 2 failed 3 times in a row: exit code 1"
    assert (back.revision, back.deployment) == (3, 1)
    assert back.rollout == Rollout(NOW), "there is no way back from the way back"
    configuration = back.spec["configuration"]
    assert configuration == {"type": "service", "port": 80, "commands": ["old"], "priority": 5, "replicas": 2}
    assert (born, changed) == ([], [])
    _, _, _, (over,) = decided(back, replica(0), replica(1), new(2, **failing), revised_at=NOW)
    assert over.rollout is None


def test_revision_that_never_gets_ready_is_rolled_back() -> None:
    late = NOW + ROLLOUT_FOR
    slow = new(1, ready=False, unready_since=NOW)
    then, _, _, runs = decided(rolling(1), replica(0), slow)
    assert (then.again, runs) == (ROLLOUT_FOR, [])
    _, _, _, (back,) = decided(rolling(1), replica(0), slow, now=late)
    why = "replica 1 was not ready within 1h: nothing listens at port 80"
    assert back.detail == f"revision 2 was rolled back: {why}"
    stays = follow(view(rolling(1, None), replica(0), slow, now=late))
    assert stays.write == (), "without a way back it may take its time"


def test_rollback_keeps_the_old_replicas_and_ends_the_new_ones() -> None:
    back = service(2, revision=3, deployment=1, rollout=Rollout(NOW))
    jobs = (replica(0), replica(1), new(2, ready=False))
    _, born, changed, _ = decided(back, *jobs)
    assert leaving(changed) == {2: JobReason.REPLACED} and born == []


def test_replica_of_an_earlier_version_that_was_ended_beside_a_failed_one_is_replaced() -> None:
    ended = replica(1, **{**FAILED, "status": JobStatus.TERMINATED, "reason": JobReason.SERVER, "detail": ""})
    ended = replace(ended, stop_asked=JobReason.SERVER)
    _, (again,), _, _ = decided(service(2), replica(0), ended)
    assert (again.replica, again.attempt) == (1, 2)


def test_run_of_a_service_runs_while_one_replica_does() -> None:
    _, _, _, (written,) = decided(
        service(2, status=RunStatus.PROVISIONING), replica(0, ready=False), placed_job(id="1-job", replica=1)
    )
    assert written.status is RunStatus.RUNNING
