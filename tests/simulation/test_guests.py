"""Dev environments that nobody is connected to, on virtual time: their end comes by itself, and not too early."""

from dstack.protocol.statuses import RunStatus
from dstack.testing import Cluster
from dstack.testing.cluster import ClusterRun
from dstack.testing.plugin import MakeCluster

DESK = {"type": "dev-environment", "ide": "vscode", "inactivity_duration": "2h"}


def started(cluster: Cluster) -> ClusterRun:
    cluster.when("desk", takes_s=1_000_000)
    run = cluster.submit(DESK, name="desk")
    run.wait("running")
    return run


def let_in(cluster: Cluster, guests: int) -> None:
    async def change() -> None:
        for host in cluster.world.clouds.hosts():
            for job in host.running:
                host.let_in(job, guests)

    cluster.run(change())


def test_it_ends_by_itself_once_nobody_was_connected_for_its_time(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = started(cluster)
    cluster.pass_time(minutes=119)
    assert run.status is RunStatus.RUNNING
    cluster.pass_time(minutes=1, seconds=30)
    assert run.status is RunStatus.TERMINATED, "at its time, and not when somebody happens to look"
    assert (run.view.reason, run.view.detail) == ("inactivity", "no user was connected for 2h")
    assert len(run.attempts) == 1
    cluster.check()


def test_a_connection_that_holds_keeps_it_alive_and_its_end_starts_the_time_anew(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = started(cluster)
    cluster.pass_time(hours=1)
    let_in(cluster, 1)
    cluster.pass_time(hours=50)
    assert run.status is RunStatus.RUNNING
    let_in(cluster, 0)
    cluster.pass_time(minutes=119)
    assert run.status is RunStatus.RUNNING
    cluster.crash_server()
    assert run.wait(hours=0.1) is RunStatus.TERMINATED
    assert run.view.reason == "inactivity"
    cluster.check()
