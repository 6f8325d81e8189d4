"""Backends come and go while servers run and die: no machine is left behind, and none is bought too late."""

from datetime import timedelta
from typing import NoReturn

import pytest

from dstack.errors import HostUnreachable, InvalidRequestError, NoCapacityError
from dstack.operations import backends, planning, projects, submitting
from dstack.protocol.requests import SubmitRun
from dstack.spec.parse import parse_configuration, to_mapping
from dstack.store.backends import CERTAIN_AFTER
from dstack.testing.cluster import PROJECT, Cluster
from dstack.testing.faults import EventualConsistency, LateCreates, LostReplies, RefusedEnds
from dstack.testing.hosts import Host
from dstack.testing.time import Hangs

TASK = "type: task\ncommands: [python train.py]\nbackends: [gcp]"
SERVERS = pytest.mark.parametrize("servers", [1, 2])


def names(cluster: Cluster) -> list[str]:
    found = cluster.ask(lambda context, user: backends.list_for(context, user, PROJECT))
    return [one.name for one in found.backends]


@SERVERS
def test_run_uses_a_backend_that_was_added_while_it_could_not_be_placed(servers: int) -> None:
    with Cluster(["aws"], servers=servers) as cluster:
        with pytest.raises(NoCapacityError):
            cluster.submit(TASK)
        cluster.add_backend("gcp")
        cluster.pass_time(minutes=2)
        assert cluster.submit(TASK).wait() == "done"
        cluster.check()


@SERVERS
def test_drained_backend_lets_its_jobs_end_and_goes_with_its_machines(servers: int) -> None:
    with Cluster(["aws"], servers=servers) as cluster:
        cluster.add_backend("gcp")
        cluster.pass_time(minutes=2)
        cluster.when("long", takes_s=3600)
        cluster.when("waiting", takes_s=60)
        run = cluster.submit(TASK, name="long")
        run.wait("running")
        with pytest.raises(InvalidRequestError, match=r"machines that have not ended \(1\)"):
            cluster.delete_backend("gcp")
        cluster.delete_backend("gcp", drain=True)
        cluster.crash_server()
        with pytest.raises(NoCapacityError):
            cluster.submit(TASK, name="waiting")
        assert run.wait() == "done"
        cluster.pass_time(minutes=5)
        assert [one.backend for one in cluster.machines] == []
        assert names(cluster) == ["aws", "gcp"], "a launch that was given up may still create a machine"
        cluster.pass_time(seconds=CERTAIN_AFTER.total_seconds() + 120)
        assert names(cluster) == ["aws"]
        cluster.check()


@pytest.mark.parametrize("seed", range(3))
def test_no_machine_is_left_in_a_backend_that_comes_and_goes_in_a_cloud_that_lies(seed: int) -> None:
    faults = [LateCreates(), LostReplies(), RefusedEnds(), EventualConsistency()]
    with Cluster(["aws"], faults, seed=seed) as cluster:
        for number in range(3):
            cluster.add_backend("gcp")
            cluster.pass_time(minutes=2)
            runs = [cluster.submit(TASK, name=f"run-{number}-{each}") for each in range(3)]
            cluster.pass_time(seconds=20 * number)
            cluster.delete_backend("gcp", drain=True)
            cluster.crash_server()
            for run in runs:
                run.stop()
                run.wait()
            cluster.pass_time(hours=2)
            assert names(cluster) == ["aws"]
            assert cluster.world.clouds["gcp"].hosts == {}
        cluster.check()


def test_offers_of_a_projects_backend_are_for_that_project_alone() -> None:
    with Cluster(["aws"]) as cluster:
        cluster.ask(lambda context, user: projects.create(context, user, "other"))
        cluster.add_backend("gcp", project="other")
        cluster.pass_time(minutes=2)
        with pytest.raises(NoCapacityError) as refused:
            cluster.submit(TASK)
        assert "gcp " not in refused.value.message, "what others may buy is not for this project to know"
        request = SubmitRun(run_name="theirs", configuration=to_mapping(parse_configuration(TASK, "task.yml")))
        plan = cluster.ask(lambda context, user: planning.plan(context, user, "other", request))
        assert {one.backend for one in plan.offers} == {"gcp"}
        cluster.ask(lambda context, user: submitting.submit(context, user, "other", request, "1"))
        cluster.pass_time(minutes=5)
        (machine,) = cluster.machines
        assert machine.jobs == () and machine.backend == "gcp"
        cluster.check()


def test_sweeping_time_is_longer_than_a_late_creation() -> None:
    assert timedelta(seconds=LateCreates().within_s) < CERTAIN_AFTER


@SERVERS
def test_backend_that_never_answers_goes_by_force_and_is_asked_no_more(
    servers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cluster(["aws"], servers=servers) as cluster:
        cluster.add_backend("gcp")
        cluster.pass_time(minutes=2)
        cluster.when("long", takes_s=3600)
        run = cluster.submit(TASK, name="long")
        run.wait("running")
        cloud, asked = cluster.world.clouds["gcp"], 0

        def never_answer() -> None:
            nonlocal asked
            asked += 1
            raise Hangs

        monkeypatch.setattr(cloud, "_answer_at_all", never_answer)
        with pytest.raises(InvalidRequestError, match="their machines answer: `long`"):
            cluster.delete_backend("gcp", force=True)
        run.stop()
        assert run.wait() == "terminated"
        cluster.pass_time(hours=1)
        with pytest.raises(InvalidRequestError, match=r"machines that have not ended \(1\)"):
            cluster.delete_backend("gcp")
        cluster.delete_backend("gcp", force=True)
        assert names(cluster) == ["aws"]
        cluster.pass_time(minutes=5)
        assert (list(cluster.world.watch.ledger.live_instances()), len(cluster.machines)) == ([], 1)
        before = asked
        cluster.crash_server()
        cluster.pass_time(hours=1)
        assert asked == before


def test_job_on_an_unreachable_machine_ends_when_its_silent_backend_is_deleted_by_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Cluster(["aws"]) as cluster:
        cluster.add_backend("gcp")
        cluster.pass_time(minutes=2)
        cluster.when("long", takes_s=36_000)
        run = cluster.submit(TASK, name="long")
        run.wait("running")

        def never_answer() -> None:
            raise Hangs

        monkeypatch.setattr(cluster.world.clouds["gcp"], "_answer_at_all", never_answer)
        (host,) = cluster.world.clouds["gcp"].hosts.values()
        monkeypatch.setattr(host, "connect", never_connect)
        cluster.run(disconnect(host))
        run.stop()
        cluster.pass_time(hours=1)
        assert run.status == "terminating", "it may still run"
        cluster.delete_backend("gcp", force=True)
        cluster.pass_time(minutes=1)
        assert run.status == "terminated"


def never_connect() -> NoReturn:
    raise HostUnreachable("the machine does not answer")


async def disconnect(host: Host) -> None:
    host.disconnect()
