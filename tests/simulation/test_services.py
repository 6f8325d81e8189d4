"""Services in made-up worlds: replicas die alone, revisions come replica by replica, and drains are awaited."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from dstack.backends import local
from dstack.protocol.agent import HostResources
from dstack.protocol.statuses import JobReason, RunStatus
from dstack.protocol.views import JobView
from dstack.testing import Cluster, ReplicaDeaths, ServerCrashes, SlowDrains
from dstack.testing.cluster import ClusterRun
from dstack.testing.faults import Fault
from dstack.testing.histories import play, script_of
from dstack.testing.plans import FAULTS_AMONG_SERVERS, FAULTS_OF_SERVICES
from dstack.testing.plugin import MakeCluster

SERVICE = {
    "type": "service",
    "port": 80,
    "commands": ["serve"],
    "replicas": 2,
    "resources": {"cpu": 1, "memory": "1GB"},
}
DAY_S = 86_400.0


def serving(cluster: Cluster, **fields: Any) -> ClusterRun:
    """Submit a service, and wait until it answers."""
    cluster.when("web", takes_s=30 * DAY_S, ready_after_s=20)
    run = cluster.submit({**SERVICE, **fields}, name="web")
    run.wait("running")
    cluster.pass_time(minutes=1)
    assert run.view.replicas_ready == run.view.replicas_asked
    return run


def alive(run: ClusterRun) -> list[JobView]:
    return [job for job in run.view.jobs if not job.status.is_finished()]


def revisions(run: ClusterRun) -> Mapping[int, int | None]:
    return {job.replica: job.revision for job in alive(run)}


def let_die(cluster: Cluster, run: ClusterRun, replica: int) -> None:
    job_id = next(job.id for job in alive(run) if job.replica == replica)
    host = next(host for host in cluster.world.clouds.hosts() if job_id in host.jobs)

    async def end() -> None:
        host.end_job(host.jobs[job_id], 3)

    cluster.run(end())


def test_replica_that_dies_is_replaced_while_the_other_one_answers(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = serving(cluster, retry=True)
    first, second = (job.id for job in alive(run))
    let_die(cluster, run, 1)
    cluster.pass_time(seconds=3)
    assert [job.id for job in alive(run)] == [first] and run.status is RunStatus.RUNNING
    cluster.pass_time(minutes=1)
    ids = [job.id for job in alive(run)]
    assert ids[0] == first and ids[1] != second and run.view.replicas_ready == 2
    cluster.check()


def test_service_without_retry_fails_with_its_last_replica(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = serving(cluster)
    let_die(cluster, run, 0)
    cluster.pass_time(hours=1)
    assert (run.status, run.view.replicas_ready) == (RunStatus.RUNNING, 1)
    let_die(cluster, run, 1)
    assert run.wait() is RunStatus.FAILED
    assert run.view.detail == "exit code 3"


def test_new_revision_replaces_one_replica_after_the_other(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = serving(cluster)
    run.update(commands=["serve # revision 2"])
    cluster.pass_time(seconds=10)
    assert revisions(run) == {0: 1, 1: 1, 2: 2}
    assert run.view.detail == "revision 2 rolls out: 0 of 2 ready; replica 2 is not ready: it does not answer yet"
    cluster.pass_time(minutes=3)
    assert set(revisions(run).values()) == {2} and run.view.replicas_ready == 2
    assert run.view.detail == ""
    replaced = [job for job in cluster.world.watch.ledger.jobs(run.id) if job.reason == JobReason.REPLACED]
    assert len(replaced) == 2
    cluster.check()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("serve # revision 2 # fails", "failed 3 times in a row: exit code 1"),
        ("serve # revision 2 # never ready", "was not ready within 1h: it does not answer yet"),
    ],
)
def test_bad_revision_is_rolled_back_while_the_old_one_answers(
    dstack_cluster: MakeCluster, script: str, why: str
) -> None:
    cluster = dstack_cluster()
    run = serving(cluster)
    before = [job.id for job in alive(run)]
    run.update(commands=[script], priority=7)
    cluster.pass_time(hours=2)
    view = run.view
    assert view.detail == f"revision 2 was rolled back: replica 2 {why}"
    assert (view.revision, view.spec["configuration"]["commands"], view.priority) == (3, ["serve"], 7)
    assert [job.id for job in alive(run)] == before and view.replicas_ready == 2
    assert f"web: {view.detail}" in cluster.story()
    cluster.check()


SMALL = {"local": [local.offer_of(HostResources(2, 16_384, 100_000))]}


def test_update_without_room_drains_an_old_replica_first(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster(backends=SMALL)
    run = serving(cluster)
    run.update(commands=["serve # revision 2"])
    cluster.pass_time(minutes=5)
    assert set(revisions(run).values()) == {2} and run.view.replicas_ready == 2
    cluster.check()


def test_update_of_the_last_ready_replica_waits_for_room_until_it_is_forced(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster(backends=SMALL)
    run = serving(cluster, replicas=1, resources={"cpu": 2, "memory": "1GB"})
    run.update(commands=["serve # revision 2"])
    cluster.pass_time(minutes=10)
    assert "replica 1 waits for room; the last ready replica stays until then" in run.view.detail
    assert run.view.replicas_ready == 1
    run.update(force=True)
    cluster.pass_time(minutes=1)
    assert list(revisions(run).values()) == [2] and run.view.replicas_ready == 1
    cluster.check()


def test_service_gets_more_and_fewer_replicas_in_place(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = serving(cluster)
    run.update(replicas=4)
    cluster.pass_time(minutes=1)
    assert run.view.replicas_ready == 4
    run.update(replicas=1)
    view = run.view
    assert (view.replicas_ready, [job.replica for job in view.jobs if job.draining]) == (1, [1, 2, 3])
    cluster.pass_time(minutes=1)
    assert [job.replica for job in alive(run)] == [0]
    cluster.check()


@pytest.mark.parametrize("never", [0.0, 1.0])
def test_replica_that_is_not_needed_lives_until_its_requests_have_ended_or_a_day_is_over(
    dstack_cluster: MakeCluster, never: float
) -> None:
    cluster = dstack_cluster(faults=[SlowDrains(at_most_s=1200, never=never)])
    run = serving(cluster)
    run.update(replicas=1)
    cluster.crash_server()
    cluster.pass_time(hours=23)
    assert len(alive(run)) == (2 if never else 1)
    cluster.pass_time(hours=2)
    assert len(alive(run)) == 1
    cluster.check()


HARD: Sequence[tuple[Fault, ...]] = ((), FAULTS_OF_SERVICES, (ServerCrashes(), ReplicaDeaths(every_s=120)))


@pytest.mark.parametrize("seed", range(1, 3))
@pytest.mark.parametrize("faults", HARD, ids=lambda faults: "+".join(type(one).__name__ for one in faults) or "none")
def test_services_keep_answering_whatever_fails(seed: int, faults: tuple[Fault, ...]) -> None:
    script = script_of(seed, only_services=True)
    script = replace(script, faults=(*script.faults, *faults) if faults else ())
    assert [str(violation) for violation in play(script).violations] == []


@pytest.mark.parametrize("seed", range(1, 3))
def test_services_keep_answering_where_several_servers_work_on_one_database(seed: int) -> None:
    script = script_of(seed, only_services=True)
    faults = (*script.faults, *FAULTS_OF_SERVICES, *FAULTS_AMONG_SERVERS)
    assert [str(violation) for violation in play(replace(script, servers=2, faults=faults)).violations] == []


@pytest.mark.deep
def test_services_keep_answering_in_many_histories(seed: int) -> None:
    for number in range(seed, seed + 100):
        assert [str(violation) for violation in play(script_of(number, only_services=True)).violations] == []
