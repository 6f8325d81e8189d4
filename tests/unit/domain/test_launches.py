"""A run gets so many machines that do not start within an hour, and then waits or ends, with the reason."""

from datetime import timedelta

import pytest

from dstack.domain.launches import (
    FAILED_MAX,
    SOLD_OUT_MAX,
    WITHIN,
    Launches,
    after_failure,
    launches_of_json,
    launches_to_json,
)
from dstack.domain.objects import Job, Run
from dstack.engine.jobs.starting import start
from dstack.engine.runs.deriving import derive
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus, RunStatus
from tests.making import CLOUD, NOW, instance, job_view, placed_job, run, run_view

FAILED = instance(
    offer=CLOUD,
    status=InstanceStatus.TERMINATING,
    reason=InstanceReason.ERROR,
    agent_seen_at=None,
    detail="the machine failed to boot: no quota",
)
SOLD_OUT = instance(
    offer=CLOUD,
    status=InstanceStatus.TERMINATED,
    reason=InstanceReason.NO_OFFERS,
    agent_seen_at=None,
    detail="m5.large is sold out",
)
UNANSWERED = instance(
    offer=CLOUD,
    status=InstanceStatus.TERMINATING,
    reason=InstanceReason.LAUNCH_TIMEOUT,
    agent_seen_at=None,
    machine_id=None,
    detail="the launch did not succeed within 10m",
)
PERSISTENT = {"configuration": {"type": "task", "commands": ["true"], "retry": {"duration": "1d"}}}


def test_launches_in_vain_are_counted_for_an_hour() -> None:
    one = after_failure(None, NOW, is_sold_out=False)
    two = after_failure(one, NOW + WITHIN / 2, is_sold_out=True)
    assert two == Launches(NOW, failed=1, sold_out=1)
    assert after_failure(two, NOW + WITHIN, is_sold_out=False) == Launches(NOW + WITHIN, failed=1)
    assert launches_of_json(launches_to_json(two)) == two and launches_of_json(None) is None


@pytest.mark.parametrize(
    ("launches", "is_held"),
    [
        (Launches(NOW, failed=FAILED_MAX - 1), False),
        (Launches(NOW, failed=FAILED_MAX), True),
        (Launches(NOW, sold_out=SOLD_OUT_MAX), True),
        (Launches(NOW, failed=1, sold_out=SOLD_OUT_MAX - 1), False),
    ],
)
def test_a_run_is_held_back_for_the_rest_of_the_hour(launches: Launches, is_held: bool) -> None:
    later = NOW + timedelta(minutes=10)
    assert launches.held_until(1, later) == (NOW + WITHIN if is_held else None)
    assert launches.held_until(2, later) is None, "more jobs have more machines"
    assert launches.held_until(1, NOW + WITHIN) is None


def test_a_machine_that_never_started_counts_for_its_run() -> None:
    ending, counted = start(job_view(placed_job(), FAILED)).write
    assert (ending.status, ending.reason) == (JobStatus.TERMINATING, JobReason.INTERRUPTED)
    assert isinstance(counted, Run) and counted.launches == Launches(NOW, failed=1)
    once_up = instance(status=InstanceStatus.TERMINATING, agent_seen_at=NOW)
    assert len(start(job_view(placed_job(), once_up)).write) == 1, "what happens to it later is no launch in vain"


def test_jobs_on_one_machine_count_once() -> None:
    first, second = placed_job(nodes=2), placed_job(id="1-job", node=1, nodes=2)
    gang = {"gang": (first, second), "gang_instances": {FAILED.id: FAILED}}
    assert [len(start(job_view(node, FAILED, **gang)).write) for node in (first, second)] == [2, 1]


def test_a_job_tries_so_many_offers_and_ends_with_the_reason() -> None:
    tried = run(status=RunStatus.PROVISIONING, launches=Launches(NOW, sold_out=SOLD_OUT_MAX - 2))
    queued, counted = start(job_view(placed_job(), SOLD_OUT, run=tried)).write
    assert queued.status is JobStatus.SUBMITTED and isinstance(counted, Run)
    ending, counted = start(job_view(placed_job(), SOLD_OUT, run=counted)).write
    assert (ending.status, ending.reason) == (JobStatus.TERMINATING, JobReason.NO_CAPACITY)
    assert isinstance(counted, Run)
    (over, *_) = derive(run_view(counted, placed_job(reason=JobReason.NO_CAPACITY, detail=ending.detail))).write
    assert over.reason is JobReason.NO_CAPACITY
    assert over.detail == "m5.large is sold out; 100 offers were sold out since 2030-01-01 12:00:00 UTC"


def test_unanswered_launch_returns_its_job_to_the_queue_so_many_times_without_a_retry_policy() -> None:
    tried = run(status=RunStatus.PROVISIONING, launches=Launches(NOW, failed=FAILED_MAX - 2))
    queued, counted = start(job_view(placed_job(), UNANSWERED, run=tried)).write
    assert (queued.status, queued.detail) == (JobStatus.SUBMITTED, "")
    assert isinstance(queued, Job) and queued.instance_id is None
    assert isinstance(counted, Run) and counted.launches == Launches(NOW, failed=FAILED_MAX - 1)
    ending, _ = start(job_view(placed_job(), UNANSWERED, run=counted)).write
    assert (ending.status, ending.reason, ending.detail) == (
        JobStatus.TERMINATING,
        JobReason.NO_CAPACITY,
        "the launch did not succeed within 10m",
    )


def test_node_whose_gang_has_an_unanswered_launch_returns_to_the_queue_with_it() -> None:
    first, second = placed_job(nodes=2), placed_job(id="1-job", node=1, nodes=2, instance_id="1-instance")
    ready = instance(id="1-instance", offer=CLOUD)
    machines = {UNANSWERED.id: UNANSWERED, ready.id: ready}
    (queued,) = start(job_view(second, ready, gang=(first, second), gang_instances=machines)).write
    assert queued.status is JobStatus.SUBMITTED, "its own launch was not in vain"


def test_a_run_with_retries_waits_for_the_end_of_the_hour_and_says_why() -> None:
    vain = Launches(NOW, failed=FAILED_MAX)
    failed = placed_job(status=JobStatus.FAILED, reason=JobReason.INTERRUPTED, detail=FAILED.detail)
    now = NOW + timedelta(minutes=20)
    held = run(spec=PERSISTENT, status=RunStatus.PROVISIONING, launches=vain, failing_since=NOW)
    (waiting,) = derive(run_view(held, failed, now=now)).write
    assert isinstance(waiting, Run) and waiting.retry_at == NOW + WITHIN
    assert "no quota; 6 machines failed to start since 2030-01-01 12:00:00 UTC" in waiting.detail
    (next_hour,) = derive(run_view(held, failed, now=NOW + WITHIN)).write
    assert isinstance(next_hour, Run) and next_hour.retry_at == NOW + WITHIN + timedelta(minutes=10)
