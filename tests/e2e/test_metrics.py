"""What jobs use, from a real agent to the Python API and the command, through restarts of each."""

import json
from collections.abc import Callable

import pytest
from msgspec import to_builtins

from dstack.api import Run, Task
from dstack.protocol.metrics import MetricsPointView
from tests.e2e.home import Home, wait_for
from tests.engines import SHELL_IMAGE

pytestmark = pytest.mark.server("shared")

MIB_HELD = 64
HOLD_AND_BURN = f"""
exec python3 - <<'END'
held = b"x" * ({MIB_HELD} << 20)
while True: pass
END
"""
IN_THE_BACKGROUND = "while :; do :; done & sleep 600"


def points_of(run: Run, enough: Callable[[list[MetricsPointView]], object]) -> list[MetricsPointView]:
    """What is told of a run, once it is enough."""
    wait_for("points", lambda: bool(enough(run.metrics().points)))
    return run.metrics().points


def burns(points: list[MetricsPointView]) -> bool:
    return any((one.cpu_cores or 0) > 0.05 for one in points)


def holds(points: list[MetricsPointView]) -> bool:
    return any((one.memory_mib or 0) > MIB_HELD for one in points)


def test_a_process_that_burns_and_holds_memory_shows_it(home: Home) -> None:
    run = home.client().runs.submit(Task(commands=[HOLD_AND_BURN]), run_name="busy")
    points = points_of(run, lambda points: burns(points) and holds(points))
    assert all(one.memory_mib is not None and one.memory_mib < 10 * MIB_HELD for one in points)
    (shown,) = json.loads(home.cli("metrics", "busy", "--json").stdout)
    assert shown["points"][: len(points)] == to_builtins(points)
    assert (shown["cpu_cores"], shown["gpus"], shown["attempt"]) == (home.cpus(), [], 1)
    title, head, cpu, memory = home.cli("metrics", "busy").stdout.splitlines()
    assert title.startswith("busy 0/0: running, ") and head.split()[:2] == ["NOW", "OF"]
    assert cpu.startswith("cpu ") and memory.startswith("memory ") and cpu.isascii()
    run.stop(abort=True)
    for _ in run.changes():
        pass
    assert home.cli("metrics", "busy").stdout.startswith("busy 0/0: aborted, "), "it can be looked at afterwards"


def test_time_that_ended_children_have_used_is_the_jobs(home: Home) -> None:
    short = "python3 -c 'import time\nwhile time.process_time() < 0.05: pass'"
    run = home.client().runs.submit(Task(commands=[f"while :; do {short}; done"]))
    assert burns(points_of(run, burns))
    run.stop(abort=True)


@pytest.mark.server(engine="engine")
def test_a_container_that_burns_and_holds_memory_shows_it(home: Home) -> None:
    fill = f"dd if=/dev/zero of=/dev/shm/held bs=1M count={MIB_HELD}"
    run = home.client().runs.submit(
        Task(
            image=SHELL_IMAGE,
            commands=[fill, "echo filled", IN_THE_BACKGROUND],
            resources={"cpu": 1, "memory": "256MB", "shm_size": "128MB"},
        )
    )
    points_of(run, lambda points: burns(points) and holds(points))
    seen = run.metrics()
    assert (seen.cpu_cores, seen.memory_mib) == (1, 256)
    run.stop(abort=True)
    for _ in run.changes():
        pass


@pytest.mark.server("own")
def test_points_outlive_a_server_and_an_agent_and_go_on(home: Home) -> None:
    run = home.client().runs.submit(Task(commands=[IN_THE_BACKGROUND]))
    before = points_of(run, lambda points: len(points) > 1)
    home.kill_server()
    after = points_of(run, lambda points: len(points) > len(before))
    assert after[: len(before)] == before
    home.kill_agent()
    again = points_of(run, lambda points: len(points) > len(after) + 1)
    assert again[: len(after)] == after and burns(again[len(after) :])
    run.stop(abort=True)


def test_a_deleted_run_and_one_that_has_no_such_job_have_no_metrics(home: Home) -> None:
    assert home.cli("metrics", "nobody").stderr.startswith("error: There is no run `nobody`")
    run = home.client().runs.submit(Task(commands=["sleep 2"]), run_name="short")
    for _ in run.changes():
        pass
    assert run.metrics().points
    with pytest.raises(Exception, match="has no job 1; it has only job 0"):
        run.metrics(job_num=1)
    assert run.metrics(start_time=run.metrics().points[-1].at).points == []
    home.client().runs.delete("short")
    with pytest.raises(Exception, match="There is no run"):
        run.metrics()
