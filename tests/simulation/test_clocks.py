"""A machine whose clock is set by hours while its server runs: what waits does so by elapsed time."""

from dstack.protocol.statuses import RunStatus
from dstack.testing import ClockJumps
from dstack.testing.plugin import MakeCluster

TASK = {"type": "task", "commands": ["work"]}


def test_retries_come_in_time(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster(faults=[ClockJumps()])
    cluster.when("again", exits=(1, 1, 1, 0), takes_s=3)
    run = cluster.submit({**TASK, "retry": {"on_events": ["error"], "duration": "1h"}}, name="again")
    assert run.wait(hours=0.05) is RunStatus.DONE
    assert len(run.attempts) == 4


def test_neither_a_maximum_nor_an_idle_time_ends_what_has_just_begun(dstack_cluster: MakeCluster) -> None:
    cluster = dstack_cluster(backends=["aws"], faults=[ClockJumps()])
    cluster.when("long", takes_s=1500)
    run = cluster.submit({**TASK, "max_duration": "30m", "idle_duration": "30m"}, name="long")
    assert run.wait() is RunStatus.DONE
    cluster.pass_time(minutes=20)
    assert cluster.machines, "kept warm"
    cluster.pass_time(minutes=20)
    assert not cluster.machines
