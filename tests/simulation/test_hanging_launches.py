"""A launch that hangs holds up its job for minutes: another cloud is tried, and no machine is left behind."""

import pytest

from dstack.domain.intents import LAUNCHED_WITHIN
from dstack.engine.scheduler import UNANSWERED
from dstack.protocol.statuses import InstanceReason
from dstack.testing.cluster import Cluster
from dstack.testing.faults import EventualConsistency, HangingLaunches, LostReplies, RefusedEnds

CHEAP = "type: task\ncommands: [python train.py]\nbackends: [aws, gcp]\nspot_policy: on-demand"
GANG = f"{CHEAP}\nnodes: 2"
ALONE = f"{CHEAP}\nresources: {{gpu: 0}}\ninstance_types: [aws-small]"
SERVERS = pytest.mark.parametrize("servers", [1, 2])


def reasons(cluster: Cluster) -> list[str | None]:
    return [one.reason for one in cluster.world.watch.ledger.live_instances()]


@SERVERS
@pytest.mark.parametrize("configuration", [CHEAP, GANG])
def test_job_whose_launch_hangs_runs_in_another_cloud_and_the_late_machine_ends(
    configuration: str, servers: int
) -> None:
    with Cluster(["aws", "gcp"], [HangingLaunches(probability=1, only="aws")], servers=servers) as cluster:
        run = cluster.submit(configuration)
        cluster.pass_time(seconds=LAUNCHED_WITHIN.total_seconds() - 60)
        assert run.status == "provisioning", "a launch has its time"
        assert run.wait() == "done"
        assert run.view.jobs[0].attempt == 1, "no retry policy is needed"
        assert InstanceReason.LAUNCH_TIMEOUT in reasons(cluster), "its machine may still come"
        cluster.pass_time(hours=4)
        assert "aws" in cluster.story(), "the launch has succeeded meanwhile"
        assert (cluster.machines, reasons(cluster)) == ([], [])
        cluster.check()


def test_job_whose_only_offer_hangs_ends_with_the_reason() -> None:
    with Cluster(["aws"], [HangingLaunches(probability=1)]) as cluster:
        run = cluster.submit(ALONE)
        assert run.wait() == "failed"
        assert (run.view.reason, run.view.detail) == ("no_capacity", UNANSWERED)
        cluster.pass_time(hours=4)
        assert cluster.machines == []
        cluster.check()


@pytest.mark.parametrize("seed", range(3))
def test_no_machine_is_left_by_launches_that_hang_while_servers_crash(seed: int) -> None:
    faults = [HangingLaunches(probability=0.7), LostReplies(), RefusedEnds(), EventualConsistency()]
    with Cluster(["aws", "gcp"], faults, seed=seed) as cluster:
        for number in range(4):
            cluster.submit(CHEAP, name=f"run-{number}")
        for _ in range(3):
            cluster.pass_time(minutes=8)
            cluster.crash_server()
        cluster.pass_time(hours=6)
        assert (cluster.machines, reasons(cluster)) == ([], [])
        cluster.check()
