"""An idle machine that does not fit the next job, on virtual time: it ends at once, and the job runs on another."""

from dataclasses import replace

from dstack.protocol.agent import Engine
from dstack.testing.plugin import MakeCluster

IDLE = "type: task\ncommands: [x]\nidle_duration: 1h\n"
IN_CONTAINER = "type: task\nimage: x\ncommands: [x]\n"


def test_it_ends_at_once_and_the_job_runs_on_another(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster()
    assert cluster.submit(IDLE).wait().value == "done"
    cluster.pass_time(minutes=2)
    (before,) = cluster.machines
    cloud = cluster.world.clouds["local"]
    (offer,) = cloud.offers()
    cloud.sell([replace(offer, resources=replace(offer.resources, engine=Engine("docker", "27.0", "x86_64")))])
    cluster.pass_time(minutes=2)
    run = cluster.submit(IN_CONTAINER)
    assert run.wait(hours=0.1).value == "done", "and not once the machine has been idle for an hour"
    (after,) = cluster.machines
    assert after.key != before.key
    cluster.check()
