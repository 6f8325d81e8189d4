"""Schedules, the order in which nodes start, when a run of several is done, and services' replicas."""

from typing import Any

import pytest

from dstack.operations import runs
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.protocol.views import JobView
from dstack.testing import Cluster
from dstack.testing.cluster import ClusterRun
from dstack.testing.plugin import MakeCluster


def jobs_of(cluster: Cluster, run: ClusterRun) -> list[JobView]:
    return cluster.ask(lambda context, user: runs.get(context, user, "main", run.id)).jobs


GANG: dict[str, Any] = {"type": "task", "commands": ["x"], "nodes": 3}


def test_a_schedule_starts_a_run_at_its_times_until_it_is_stopped(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    cluster.when("nightly", exits=[0, 1, 0], takes_s=60, prints="done\n")
    run = cluster.submit({"type": "task", "commands": ["x"], "schedule": {"cron": "0 3 * * *"}}, name="nightly")
    assert run.status is RunStatus.PENDING and run.attempts == ()
    cluster.pass_time(hours=25)
    assert [one.status for one in run.attempts] == [JobStatus.DONE]
    cluster.pass_time(days=2)
    assert [one.status for one in run.attempts] == [JobStatus.DONE, JobStatus.FAILED, JobStatus.DONE]
    assert run.status is RunStatus.PENDING and run.logs() == b"done\n" * 3
    run.stop()
    assert run.wait() is RunStatus.TERMINATED
    cluster.pass_time(days=2)
    assert len(run.attempts) == 3
    cluster.check()


@pytest.mark.parametrize(("order", "first"), [("master-first", {0}), ("workers-first", {1, 2}), ("any", {0, 1, 2})])
def test_nodes_start_in_the_order_that_was_asked_for(dstack_cluster: MakeCluster, order: str, first: set[int]) -> None:
    cluster = dstack_cluster()
    cluster.when("gang", takes_s=10_000)
    run = cluster.submit({**GANG, "startup_order": order}, name="gang")
    run.wait("running")
    cluster.pass_time(minutes=5)
    started = {job.node: job.started_at for job in jobs_of(cluster, run)}
    assert set(started) == {0, 1, 2} and all(started.values())
    others = {0, 1, 2} - first
    if others:
        assert max(at for node, at in started.items() if node in first and at) <= min(
            at for node, at in started.items() if node in others and at
        )
    run.stop()
    run.wait()
    cluster.check()


@pytest.mark.parametrize("order", ["master-first", "workers-first"])
def test_nodes_that_wait_for_others_start_also_when_those_are_done_at_once(
    dstack_cluster: MakeCluster, order: str
) -> None:
    cluster = dstack_cluster()
    cluster.when("gang", takes_s=0)
    run = cluster.submit({**GANG, "startup_order": order}, name="gang")
    assert run.wait(hours=1) is RunStatus.DONE
    cluster.check()


def test_a_service_has_as_many_jobs_as_replicas(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    cluster.when("web", takes_s=100_000)
    run = cluster.submit({"type": "service", "port": 80, "commands": ["x"], "replicas": 2}, name="web")
    run.wait("running")
    assert [(job.replica, job.node) for job in jobs_of(cluster, run)] == [(0, 0), (1, 0)]
    run.stop()
    assert run.wait() is RunStatus.TERMINATED
