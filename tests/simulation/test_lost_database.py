"""A database that is lost, or is an older copy, on virtual time: what no record claims ends, and nothing runs twice."""

from pathlib import Path

from dstack.testing import Cluster
from dstack.testing.plugin import MakeCluster

LONG = "type: task\ncommands: [x]\nidle_duration: 5m\n"


def names_of_jobs(cluster: Cluster) -> list[str]:
    return sorted(name for machine in cluster.machines for name in machine.jobs)


def test_what_a_lost_database_knew_ends_and_new_jobs_run(dstack_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = dstack_cluster(["aws"])
    cluster.back_up(tmp_path / "empty.db")
    cluster.when("old", takes_s=1_000_000)
    cluster.submit(LONG, name="old").wait("running")
    cluster.restore(tmp_path / "empty.db")
    assert cluster.submit(LONG, name="new").wait(hours=0.5).value == "done"
    cluster.pass_time(minutes=15)
    assert cluster.machines == [], "neither that of the old job nor that of the new one"


def test_a_job_that_an_older_copy_does_not_know_ends_and_one_that_it_knows_goes_on(
    dstack_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = dstack_cluster()
    for name in ("known", "unknown"):
        cluster.when(name, takes_s=7200)
    known = cluster.submit(LONG, name="known")
    known.wait("running")
    cluster.back_up(tmp_path / "copy.db")
    cluster.submit(LONG, name="unknown").wait("running")
    assert names_of_jobs(cluster) == ["known", "unknown"]
    cluster.restore(tmp_path / "copy.db")
    cluster.pass_time(minutes=2)
    assert names_of_jobs(cluster) == ["known"]
    assert known.wait(hours=3).value == "done"
    assert [attempt.exit_code for attempt in known.attempts] == [0]
