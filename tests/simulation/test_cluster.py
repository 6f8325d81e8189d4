import asyncio

import pytest

from dstack import testing
from dstack.api import Task
from dstack.errors import ConfigurationError, NoCapacityError
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.testing import Cluster, LostReplies, ServerCrashes, ServerPauses, SoldOut
from dstack.testing.plugin import MakeCluster


def test_a_run_does_what_it_is_told(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    cluster.when("hello", takes_s=5, prints="hello")
    run = cluster.submit(Task(commands=["echo hello"]), name="hello")
    assert run.wait("running") is RunStatus.RUNNING
    assert [machine.jobs for machine in cluster.machines] == [("hello",)]
    assert run.wait() is RunStatus.DONE
    assert run.logs() == b"hello"
    assert [(attempt.number, attempt.status) for attempt in run.attempts] == [(1, JobStatus.DONE)]


def test_a_run_that_is_stopped_ends(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    cluster.when("long", takes_s=100_000)
    run = cluster.submit("{type: task, name: long, commands: [sleep]}")
    run.wait("running")
    run.stop()
    assert run.wait() is RunStatus.TERMINATED


def test_waiting_for_what_does_not_come_says_what_happened_instead(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    cluster.when("long", takes_s=100_000)
    run = cluster.submit("{type: task, name: long, commands: [sleep]}")
    with pytest.raises(TimeoutError, match=r"long was still running after 1 hours\n(.*\n)*.*run long is running"):
        run.wait(hours=1)
    quick = cluster.submit("{type: task, name: quick, commands: [sleep]}")
    with pytest.raises(TimeoutError, match="quick ended as done and was not pending"):
        quick.wait("pending")


def test_what_no_backend_has_is_refused_as_by_a_real_server(dstack_cluster: MakeCluster) -> None:
    with pytest.raises(NoCapacityError, match="gpu: asked 9 H100, has none"):
        dstack_cluster().submit({"type": "task", "commands": ["true"], "resources": {"gpu": "H100:9"}})


def test_a_seed_is_one_history() -> None:
    assert _story(seed=3) == _story(seed=3)
    assert _story(seed=3) != _story(seed=4)


def _story(seed: int) -> str:
    faults = [SoldOut(every_s=60, lasts_s=60), LostReplies(), ServerCrashes(probability=0.05)]
    with Cluster(["aws"], faults, seed=seed) as cluster:
        for _ in range(3):
            cluster.submit({"type": "task", "commands": ["true"], "retry": True}).wait()
        cluster.check()
        return cluster.story()


def test_of_several_servers_each_answers_and_others_go_on_when_one_dies(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster(backends=["aws"], faults=[ServerPauses()], servers=3)
    cluster.when("train", takes_s=3600)
    run = cluster.submit("{type: task, name: train, commands: [work]}")
    run.wait("running")
    for _ in range(3):
        cluster.crash_server()
        assert run.status == "running"
    assert run.wait() == "done"


def test_what_is_wrong_in_the_world_fails_the_test() -> None:
    with Cluster() as cluster:
        run = cluster.submit({"type": "task", "commands": ["true"]})
        run.wait()
        cluster.world.watch.truth.accepted.add("somebody-else")
        with pytest.raises(AssertionError, match="accepted_runs_are_on_record: somebody-else was accepted and is lost"):
            cluster.check()


def test_what_there_is_not_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match="There is no backend called `asw`"):
        Cluster(["asw"])
    with pytest.raises(ConfigurationError, match="There is no clock called `real`"):
        Cluster(clock="real")
    with pytest.raises(ConfigurationError, match="A cluster has 1 to 5 servers, and not 0"):
        Cluster(servers=0)


async def test_a_cluster_in_a_running_loop_is_refused() -> None:
    assert asyncio.get_running_loop()
    with pytest.raises(ConfigurationError, match="coroutine"):
        Cluster()


def test_the_promised_names_are_there() -> None:
    assert testing.__all__ == sorted(testing.__all__)
    assert all(getattr(testing, name) is not None for name in testing.__all__)
