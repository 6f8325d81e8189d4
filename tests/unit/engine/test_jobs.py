from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.intents import Done, Failed, ForgetJob, StartJob, StopJob
from dstack.domain.objects import Instance, JobView, Next
from dstack.domain.offers import NO_SHARE, Share
from dstack.engine.jobs.awaiting_placement import await_placement
from dstack.engine.jobs.starting import start
from dstack.engine.jobs.stopping import LOGS_WITHIN, stop
from dstack.engine.jobs.watching import UNREACHABLE_AFTER, watch
from dstack.errors import AgentRefused, HostTrouble
from dstack.protocol.agent import Engine, HostResources
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus, RunStatus
from tests.making import CLOUD, DEMAND, NOW, ended, instance, job, job_view, placed_job, report, run

STARTED: dict[Any, Any] = {StartJob: Done({})}
DOCKER = Engine("docker", "27", "x86_64")


def moved(decided: Next) -> tuple[JobStatus, JobReason | None, str]:
    (written,) = decided.write
    return written.status, written.reason, written.detail


def running(**fields: Any) -> JobView:
    return job_view(placed_job(status=JobStatus.RUNNING, **fields), instance(), outcomes=STARTED)


def test_a_queued_job_waits_for_the_scheduler() -> None:
    assert await_placement(job_view(job())) == Next()


def test_a_queued_job_that_is_stopped_leaves_the_queue() -> None:
    decided = await_placement(job_view(job(stop_asked=JobReason.STOPPED_BY_USER)))
    assert moved(decided) == (JobStatus.TERMINATING, JobReason.STOPPED_BY_USER, "")


def test_a_placed_job_waits_until_its_machine_is_ready() -> None:
    booting = instance(status=InstanceStatus.PROVISIONING, agent_seen_at=None)
    assert start(job_view(placed_job(), booting)) == Next()


def test_a_placed_job_is_handed_over_once_its_machine_is_ready() -> None:
    assert start(job_view(placed_job(), instance())) == Next(do=(StartJob("0-job", "0-instance"),))


def test_the_nodes_of_a_gang_wait_for_each_other() -> None:
    first, second = placed_job(nodes=2), placed_job(id="1-job", node=1, nodes=2, instance_id="1-instance")
    booting = instance(id="1-instance", status=InstanceStatus.PROVISIONING, agent_seen_at=None)
    instances = {"0-instance": instance(), "1-instance": booting}
    view = job_view(first, instance(), gang=(first, second), gang_instances=instances)
    assert start(view) == Next()


def with_docker(**fields: Any) -> Instance:
    """A machine of a cloud on which the agent has found a container engine."""
    return instance(offer=CLOUD, host=HostResources(2, 8192, 102_400, engine=DOCKER), **fields)


def without_docker(**fields: Any) -> Instance:
    """One on which it has found none."""
    return instance(offer=CLOUD, host=HostResources(2, 8192, 102_400), **fields)


IN_CONTAINER = Share(2, 8192, container=True)
AS_PROCESS = replace(IN_CONTAINER, container=False)


def test_job_planned_for_a_container_runs_as_a_process_where_no_engine_is_found() -> None:
    planned = placed_job(share=IN_CONTAINER)
    assert start(job_view(planned, with_docker())) == Next(do=(StartJob("0-job", "0-instance"),))
    revised = replace(planned, share=AS_PROCESS)
    assert start(job_view(planned, without_docker())) == Next((revised,), (StartJob("0-job", "0-instance"),))


def test_job_that_needs_a_container_is_left_to_the_agent_to_refuse() -> None:
    demand = replace(DEMAND, container=("`image: ubuntu`",))
    view = job_view(placed_job(share=IN_CONTAINER, demand=demand), without_docker())
    assert start(view) == Next(do=(StartJob("0-job", "0-instance"),))


def test_all_nodes_of_a_gang_get_one_runtime() -> None:
    first = placed_job(nodes=2, share=IN_CONTAINER)
    second = replace(first, id="1-job", node=1, instance_id="1-instance")
    here, there = with_docker(), without_docker(id="1-instance")
    machines = {"0-instance": here, "1-instance": there}
    decided = start(job_view(first, here, gang=(first, second), gang_instances=machines))
    assert decided.write == (replace(first, share=AS_PROCESS),)
    later = replace(machines["1-instance"], host=here.host)
    begun = replace(first, share=AS_PROCESS, status=JobStatus.RUNNING)
    machines["1-instance"] = later
    decided = start(job_view(second, later, gang=(begun, second), gang_instances=machines))
    assert decided.write == (replace(second, share=AS_PROCESS),), "the first node runs as a process already"


def test_a_node_that_was_handed_over_goes_on_although_a_quick_one_is_done_and_its_machine_gone() -> None:
    quick, slow = placed_job(id="1-job", node=1, nodes=2, instance_id="1-instance"), placed_job(report=ended(), nodes=2)
    gone = instance(id="1-instance", status=InstanceStatus.TERMINATED, finished_at=NOW)
    instances = {"0-instance": instance(), "1-instance": gone}
    view = job_view(slow, instance(), gang=(slow, quick), gang_instances=instances, outcomes=STARTED)
    assert moved(start(view)) == (JobStatus.TERMINATING, JobReason.EXITED, "")


def test_a_job_runs_when_its_agent_says_so() -> None:
    decided = start(job_view(placed_job(report=report()), instance(), outcomes=STARTED))
    assert moved(decided) == (JobStatus.RUNNING, None, "")


def test_a_job_that_its_agent_refuses_fails_with_the_agents_words() -> None:
    outcomes = {StartJob: Failed(AgentRefused("the disk is full"))}
    decided = start(job_view(placed_job(), instance(), outcomes=outcomes))
    assert moved(decided) == (JobStatus.TERMINATING, JobReason.EXECUTOR_ERROR, "the disk is full")


@pytest.mark.parametrize(
    "view",
    [
        job_view(placed_job(), instance(), outcomes={StartJob: Failed(HostTrouble("the disk is full"))}),
        job_view(
            placed_job(report=ended(end="host_failed", exit_code=None, message="the disk is full")),
            instance(),
            outcomes=STARTED,
        ),
    ],
)
def test_start_that_failed_for_the_hosts_reasons_is_the_machines_failure(view: JobView) -> None:
    over, machine = start(view).write
    assert (over.status, over.reason, over.detail) == (
        JobStatus.TERMINATING,
        JobReason.HOST_ERROR,
        "the disk is full",
    )
    assert machine == replace(instance(), failed_starts=1, detail="the disk is full")


def test_job_that_runs_proves_its_machine_well() -> None:
    failing = instance(failed_starts=2, detail="the disk is full")
    _, machine = start(job_view(placed_job(report=report()), failing, outcomes=STARTED)).write
    assert machine == instance()


def test_a_job_whose_machine_never_came_says_why() -> None:
    gone = instance(
        status=InstanceStatus.TERMINATED, reason=InstanceReason.ERROR, detail="no such image", finished_at=NOW
    )
    assert moved(start(job_view(placed_job(), gone))) == (
        JobStatus.TERMINATING,
        JobReason.INTERRUPTED,
        "no such image",
    )


def test_a_job_whose_offer_is_sold_out_goes_back_to_its_place_in_the_queue_with_all_of_its_gang() -> None:
    gone = instance(status=InstanceStatus.TERMINATED, reason=InstanceReason.NO_OFFERS, finished_at=NOW)
    (back,) = start(job_view(placed_job(), gone)).write
    assert back == replace(placed_job(), status=JobStatus.SUBMITTED, instance_id=None, share=NO_SHARE)
    other = placed_job(id="1-job", node=1, nodes=2, instance_id="1-instance")
    ready = instance(id="1-instance")
    for mate, machines in (
        (placed_job(nodes=2), {gone.id: gone, ready.id: ready}),
        (job(nodes=2), {ready.id: ready}),
    ):
        (back,) = start(job_view(other, ready, gang=(mate, other), gang_instances=machines)).write
        assert back.status is JobStatus.SUBMITTED


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (ended(), (JobReason.EXITED, "")),
        (ended(exit_code=3), (JobReason.CONTAINER_EXITED_WITH_ERROR, "exit code 3")),
        (ended(exit_code=137, signal=9), (JobReason.CONTAINER_EXITED_WITH_ERROR, "killed by signal 9")),
        (ended(end="max_duration", exit_code=143), (JobReason.MAX_DURATION_EXCEEDED, "")),
        (
            ended(end="start_failed", exit_code=None, message="no shell"),
            (JobReason.CREATING_CONTAINER_ERROR, "no shell"),
        ),
        (ended(end="supervisor_lost", exit_code=None), (JobReason.EXECUTOR_ERROR, "the agent lost the job")),
    ],
)
def test_a_running_job_ends_as_its_agent_reports(said: Any, expected: tuple[JobReason, str]) -> None:
    assert moved(watch(running(report=said))) == (JobStatus.TERMINATING, *expected)


def test_a_lost_link_is_no_death_for_minutes() -> None:
    silent = instance(unreachable_since=NOW)
    view = job_view(placed_job(status=JobStatus.RUNNING), silent, now=NOW + timedelta(minutes=4), outcomes=STARTED)
    assert watch(view) == Next(again=timedelta(minutes=1))
    late = job_view(placed_job(status=JobStatus.RUNNING), silent, now=NOW + UNREACHABLE_AFTER, outcomes=STARTED)
    assert moved(watch(late))[1] is JobReason.INSTANCE_UNREACHABLE


BEFORE = NOW.timestamp() - 86_400.0
"""A host's clock that is a day behind."""


def workplace(now: timedelta, limit: object = "2h", on: Any = None, **told: Any) -> JobView:
    """A dev environment that has run since `NOW`, and the time since then."""
    spec = {"configuration": {"type": "dev-environment", "ide": "vscode", "inactivity_duration": limit}}
    said = report(started_at=BEFORE, **{"alone_since": BEFORE, **told})
    at_work = placed_job(status=JobStatus.RUNNING, started_at=NOW, report=said)
    desk = run(type="dev-environment", spec=spec, status=RunStatus.RUNNING)
    return job_view(at_work, on or instance(), now=NOW + now, run=desk, outcomes=STARTED)


HOUR = timedelta(hours=1)


def test_a_dev_environment_ends_once_nobody_was_connected_for_its_time() -> None:
    expected = (JobStatus.TERMINATING, JobReason.INACTIVITY, "no user was connected for 2h")
    assert moved(watch(workplace(2 * HOUR))) == expected
    assert moved(watch(workplace(5 * HOUR, alone_since=BEFORE + 3 * 3600))) == expected


@pytest.mark.parametrize(
    ("view", "again"),
    [
        (workplace(HOUR), HOUR),
        (workplace(5 * HOUR, alone_since=BEFORE + 4 * 3600), HOUR),
        (workplace(9 * HOUR, guests=1, alone_since=None), None),
        (workplace(9 * HOUR, "off"), None),
        (workplace(9 * HOUR, None), None),
    ],
)
def test_a_dev_environment_goes_on_until_then_while_somebody_is_in_and_where_it_has_no_limit(
    view: JobView, again: timedelta | None
) -> None:
    assert watch(view) == Next(again=again)


def test_nobody_is_missed_while_the_link_is_down() -> None:
    view = workplace(9 * HOUR, on=instance(unreachable_since=NOW + 9 * HOUR))
    assert watch(view) == Next(again=UNREACHABLE_AFTER)


def test_a_task_needs_nobody() -> None:
    assert watch(running(started_at=NOW, report=report(started_at=BEFORE, alone_since=BEFORE))) == Next()


def test_a_job_that_was_never_handed_over_just_ends() -> None:
    job = placed_job(status=JobStatus.TERMINATING, reason=JobReason.STOPPED_BY_USER)
    decided = stop(job_view(job, instance()))
    assert moved(decided)[0] is JobStatus.TERMINATED
    assert decided.do == ()


@pytest.mark.parametrize(("asked", "grace_s"), [(JobReason.STOPPED_BY_USER, 10.0), (JobReason.ABORTED_BY_USER, 0.0)])
def test_a_stop_gives_grace_and_an_abort_none(asked: JobReason, grace_s: float) -> None:
    job = placed_job(status=JobStatus.TERMINATING, reason=asked, stop_asked=asked, report=report())
    decided = stop(job_view(job, instance(), outcomes=STARTED))
    assert decided.do == (StopJob("0-job", "0-instance", grace_s),)
    assert decided.write == ()


def test_a_job_is_over_only_with_its_last_log_byte() -> None:
    job = placed_job(status=JobStatus.TERMINATING, reason=JobReason.EXITED, report=ended(logged=False))
    assert stop(job_view(job, instance(), outcomes=STARTED)) == Next(again=LOGS_WITHIN)
    over = placed_job(status=JobStatus.TERMINATING, reason=JobReason.EXITED, report=ended())
    decided = stop(job_view(over, instance(), outcomes=STARTED))
    assert moved(decided)[0] is JobStatus.DONE
    assert decided.do == (ForgetJob("0-job", "0-instance"),)


def test_a_job_on_a_silent_machine_is_over_only_when_the_machine_is_gone() -> None:
    job = placed_job(status=JobStatus.TERMINATING, reason=JobReason.INSTANCE_UNREACHABLE, report=report())
    ending = instance(status=InstanceStatus.TERMINATING, unreachable_since=NOW)
    decided = stop(job_view(job, ending, now=NOW + timedelta(hours=1), outcomes=STARTED))
    assert decided.write == (), "it may live on there, and no other attempt may run beside it"
    gone = instance(status=InstanceStatus.TERMINATED, unreachable_since=NOW, finished_at=NOW)
    assert moved(stop(job_view(job, gone, outcomes=STARTED)))[0] is JobStatus.FAILED


def test_log_bytes_that_never_come_are_missed_aloud() -> None:
    job = placed_job(status=JobStatus.TERMINATING, reason=JobReason.EXITED, report=ended(logged=False))
    decided = stop(job_view(job, instance(), now=NOW + LOGS_WITHIN, outcomes=STARTED))
    assert "the last log bytes did not arrive" in moved(decided)[2]


def test_log_bytes_are_not_missed_while_the_link_is_down() -> None:
    job = placed_job(status=JobStatus.TERMINATING, reason=JobReason.EXITED, report=ended(logged=False))
    silent = instance(unreachable_since=NOW)
    assert stop(job_view(job, silent, now=NOW + LOGS_WITHIN, outcomes=STARTED)) == Next()


def test_exit_code_and_signal_are_kept() -> None:
    said = ended(exit_code=137, signal=9)
    job = placed_job(status=JobStatus.TERMINATING, reason=JobReason.CONTAINER_EXITED_WITH_ERROR, report=said)
    (over,) = stop(job_view(job, instance(), outcomes=STARTED)).write
    assert (over.status, over.exit_code, over.signal) == (JobStatus.FAILED, 137, 9)
