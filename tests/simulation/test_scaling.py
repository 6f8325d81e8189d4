"""Services that scale with their requests in made-up worlds: from zero, under load, and back, whatever fails."""

from dataclasses import replace
from typing import Any

import pytest

from dstack.protocol.statuses import RunStatus
from dstack.testing import Cluster, DataPlaneKills, ServerCrashes, ServerPauses, servers
from dstack.testing.cluster import ClusterRun
from dstack.testing.faults import Fault
from dstack.testing.histories import play, script_of
from dstack.testing.plans import FAULTS_AMONG_SERVERS, FAULTS_OF_SCALING
from dstack.testing.plugin import MakeCluster
from tests.simulation.test_services import SERVICE, alive, let_die

SCALING = {"metric": "rps", "target": 0.25, "scale_up_delay": 60, "scale_down_delay": 120, "window": 60}
DAY_S = 86_400.0


def scaling(cluster: Cluster, replicas: str = "0..3", **fields: Any) -> ClusterRun:
    """Submit a service that scales."""
    cluster.when("web", takes_s=30 * DAY_S, ready_after_s=20)
    return cluster.submit({**SERVICE, "retry": True, "replicas": replicas, "scaling": SCALING, **fields}, name="web")


def decisions(cluster: Cluster, run: ClusterRun) -> list[tuple[int, int]]:
    return [(one.before, one.after) for one in cluster.world.watch.ledger.scalings(run.id)]


def send_steadily(cluster: Cluster, run: ClusterRun, minutes: int) -> None:
    """Send a request every five seconds: as many as two replicas answer, and not one."""
    for _ in range(12 * minutes):
        run.request(times=2, takes_s=3)
        cluster.pass_time(seconds=5)


def counted(run: ClusterRun) -> tuple[int, int, int]:
    """Return the requests that are answered, those that failed, and those in flight."""
    service = run.view.service
    assert service is not None and service.traffic is not None
    return service.traffic.requests, service.traffic.errors, service.traffic.in_flight


def test_request_at_zero_waits_for_a_replica_which_leaves_after_it(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = scaling(cluster)
    cluster.pass_time(hours=6)
    assert (run.status, alive(run), decisions(cluster, run)) == (RunStatus.RUNNING, [], [])
    run.request(times=3)
    cluster.pass_time(seconds=10)
    assert (counted(run), run.view.replicas_ready) == ((0, 0, 3), 0)
    cluster.pass_time(minutes=1)
    assert (counted(run), run.view.replicas_ready) == ((3, 0, 0), 1)
    cluster.pass_time(minutes=10)
    assert (alive(run), decisions(cluster, run)) == ([], [(0, 1), (1, 0)])
    assert "web: replicas 0 → 1: 3 requests wait for a replica" in cluster.story()
    cluster.check()


def test_replica_that_is_not_needed_ends_after_its_last_request(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = scaling(cluster)
    send_steadily(cluster, run, minutes=3)
    run.request(times=6, takes_s=3600)
    cluster.pass_time(minutes=30)
    view = run.view
    drain = sum(job.draining for job in view.jobs)
    assert (view.replicas_asked, len(alive(run))) == (1, 1 + drain) and drain > 0
    cluster.pass_time(hours=1)
    assert (alive(run), counted(run)[1:]) == ([], (0, 0))
    cluster.check()


RESTARTS = (
    pytest.param(1, (ServerCrashes(probability=0.002, at_most=20),), id="crashes"),
    pytest.param(2, (ServerPauses(every_s=600, lasts_s=20),), id="pauses"),
)


@pytest.mark.parametrize(("count", "faults"), RESTARTS)
def test_restarts_under_steady_traffic_change_no_number(
    dstack_cluster: MakeCluster, count: int, faults: tuple[Fault, ...]
) -> None:
    cluster = dstack_cluster(servers=count, faults=faults)
    run = scaling(cluster, "1..4")
    send_steadily(cluster, run, minutes=8)
    before = decisions(cluster, run)
    send_steadily(cluster, run, minutes=20)
    assert decisions(cluster, run) == before and run.view.replicas_asked == before[-1][1] > 1
    cluster.check()


def test_server_that_was_away_for_minutes_changes_no_number(
    dstack_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data plane answers requests meanwhile, and reports them late."""
    monkeypatch.setattr(servers, "RESTART_AFTER_S", 400.0)
    cluster = dstack_cluster()
    run = scaling(cluster, "0..4")
    send_steadily(cluster, run, minutes=8)
    before = decisions(cluster, run)
    for _ in range(2):
        cluster.world.server.switch.strike("because the test set it")
        send_steadily(cluster, run, minutes=12)
    cluster.pass_time(seconds=10)
    assert decisions(cluster, run) == before and counted(run) == (768, 0, 0)
    cluster.check()


def test_killed_data_plane_loses_what_it_has_and_the_number_stays(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster(faults=[DataPlaneKills(every_s=240)])
    run = scaling(cluster, "1..4")
    send_steadily(cluster, run, minutes=8)
    before = decisions(cluster, run)
    send_steadily(cluster, run, minutes=12)
    assert decisions(cluster, run) == before and "a data plane" in cluster.story()
    cluster.check()


def test_minimum_that_is_lowered_to_zero_under_traffic_keeps_the_replicas(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = scaling(cluster, "1..3")
    send_steadily(cluster, run, minutes=8)
    before = decisions(cluster, run)
    run.update(replicas="0..3")
    send_steadily(cluster, run, minutes=8)
    assert decisions(cluster, run) == before and run.view.replicas_ready == before[-1][1]
    cluster.check()


def test_number_becomes_a_range_and_a_number_again(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = scaling(cluster, "2")
    send_steadily(cluster, run, minutes=3)
    ids = [job.id for job in alive(run)]
    run.update(replicas="0..3")
    send_steadily(cluster, run, minutes=2)
    assert [job.id for job in alive(run)] == ids, "it has as many as its traffic needs"
    run.update(replicas=3)
    cluster.pass_time(minutes=1)
    assert run.view.replicas_ready == 3
    cluster.pass_time(minutes=30)
    assert run.view.replicas_ready == 3
    cluster.check()


def test_update_goes_on_while_traffic_comes_and_goes(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = scaling(cluster, "1..3")
    send_steadily(cluster, run, minutes=3)
    run.update(commands=["serve # revision 2"])
    send_steadily(cluster, run, minutes=5)
    assert {job.revision for job in alive(run)} == {2} and run.view.replicas_ready == 2
    assert counted(run)[1] == 0
    cluster.check()


def test_replica_that_dies_at_the_first_request_is_followed_by_another(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    run = scaling(cluster)
    run.request()
    cluster.pass_time(seconds=10)
    let_die(cluster, run, 0)
    cluster.pass_time(minutes=2)
    assert counted(run) == (1, 0, 0)
    cluster.check()


@pytest.mark.parametrize("seed", range(1, 4))
def test_services_scale_whatever_fails(seed: int) -> None:
    script = script_of(seed, only_scaling=True)
    faults = (*script.faults, *FAULTS_OF_SCALING)
    assert [str(violation) for violation in play(replace(script, faults=faults)).violations] == []


def test_services_scale_where_several_servers_work_on_one_database() -> None:
    script = script_of(1, only_scaling=True)
    faults = (*script.faults, *FAULTS_AMONG_SERVERS)
    assert [str(violation) for violation in play(replace(script, servers=2, faults=faults)).violations] == []


@pytest.mark.deep
def test_services_scale_in_many_histories(seed: int) -> None:
    for number in range(seed, seed + 100):
        assert [str(violation) for violation in play(script_of(number, only_scaling=True)).violations] == []
