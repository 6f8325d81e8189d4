"""Podman's socket instead of Docker's: what matters of a job in a container is the same."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dstack.api import LocalRepo, RunStatus, Task
from tests.e2e.agent.container_host import ContainerHost
from tests.e2e.home import Home
from tests.e2e.tasks import run
from tests.engines import BARE_IMAGE, SHELL_IMAGE
from tests.making import HandClock
from tests.podman import PodmanEngine
from tests.registries import SlowRegistry

pytestmark = pytest.mark.server("shared", engine="podman")


@pytest.fixture(scope="session")
def podman() -> Iterator[PodmanEngine]:
    engine = PodmanEngine()
    engine.start()
    yield engine
    engine.stop()


def test_commands_run_with_files_environment_user_and_exit_code(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("data\n")
    printed, status, detail = run(
        home,
        "cat data.txt; stat -c '%U %G' data.txt; id -un; touch new && echo wrote",
        'echo "$A $DSTACK_WORKING_DIR $PWD"; echo problem >&2; exit 3',
        repo=LocalRepo.from_dir(tmp_path),
        env={"A": "1"},
        user="me",
    )
    assert printed == "data\nme users\nme\nwrote\n1 /workflow /workflow\nproblem\n"
    assert (status, detail) == (RunStatus.FAILED, "exit code 3")


def test_an_image_without_shell_runs_as_it_is(home: Home) -> None:
    assert run(home, image=BARE_IMAGE) == ("bare image\n", RunStatus.DONE, "")
    assert run(home, image=BARE_IMAGE, user="4321", entrypoint="/busybox id -u") == ("4321\n", RunStatus.DONE, "")


def test_limits_and_shared_memory_are_those_of_the_configuration(home: Home) -> None:
    resources = {"cpu": 1, "memory": "64MB", "shm_size": "16MB"}
    memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    printed, status, _ = run(home, memory, "df -m /dev/shm | awk 'NR==2 { print $2 }'", resources=resources)
    assert (printed, status) == (f"{64 << 20}\n16\n", RunStatus.DONE)
    _, status, detail = run(home, "tail /dev/zero", resources={"memory": "32MB"})
    assert status is RunStatus.FAILED
    assert detail.startswith("exit code 137: it ") and detail.endswith(" ran out of memory, 32MB")


def test_a_stop_gives_time_and_then_kills(home: Home) -> None:
    script = "trap 'echo saving; sleep 0.2; echo saved; exit 0' TERM; echo started; while :; do sleep 0.1; done"
    one = home.client().runs.submit(Task(image=SHELL_IMAGE, commands=[f'sh -c "{script}"'], stop_duration=30))
    printed = one.logs()
    assert next(printed) == b"started\n"
    one.stop()
    assert b"".join(printed).endswith(b"saving\nsaved\n")
    deaf = Task(
        image=SHELL_IMAGE, commands=["trap '' TERM; echo started; while :; do sleep 0.1; done"], stop_duration=1
    )
    one = home.client().runs.submit(deaf)
    printed = one.logs()
    assert next(printed) == b"started\n"
    one.stop()
    assert b"".join(printed) == b""
    one.refresh()
    assert one.status is RunStatus.TERMINATED


@pytest.mark.server("own")
def test_a_container_outlives_its_agent(home: Home) -> None:
    go = home.path / "shared" / "go"
    commands = ["echo one; while [ ! -e /data/go ]; do sleep 0.05; done; echo two; exit 5"]
    one = home.client().runs.submit(Task(image=SHELL_IMAGE, commands=commands, volumes=[f"{go.parent}:/data"]))
    printed = one.logs()
    assert next(printed) == b"one\n"
    home.kill_agent()
    go.touch()
    assert b"".join(printed) == b"two\n"
    one.refresh()
    assert (one.status, one.exit_code) == (RunStatus.FAILED, 5)


def test_a_way_leads_into_a_job(home: Home) -> None:
    one = home.client().runs.submit(
        Task(image=SHELL_IMAGE, commands=["cat /data/gate"], volumes=[f"{home.gate().parent}:/data"]),
        run_name="inside",
    )
    assert one.attach()
    entered = home.run_program("ssh", "-F", str(home.path / ".dstack/ssh/config"), "inside", "id -un; pwd; exit 4")
    assert (entered.stdout, entered.returncode) == ("root\n/workflow\n", 4), entered.stderr
    one.detach()
    home.open_gate()
    assert b"".join(one.logs()) == b"open\n"


def test_what_cannot_run_has_one_clear_reason(home: Home) -> None:
    assert "has no shell (`bash` or `sh`)" in run(home, "true", image=BARE_IMAGE)[2]
    assert run(home, "true", user="nobody-here")[2].startswith("There is no user `nobody-here` in the image")
    assert run(home, image="127.0.0.1:1/none")[2].startswith("The image `127.0.0.1:1/none` could not be pulled: ")


@pytest.fixture
def slow(podman: PodmanEngine) -> Iterator[SlowRegistry]:
    """A registry with an image of two layers, which comes by half."""
    layers = [{"bin/sh": Path("/bin/busybox").read_bytes()}, {"large": os.urandom(8 << 20)}]
    slow = SlowRegistry(podman.network, layers)
    yield slow
    slow.stop()


def test_an_image_comes_byte_by_byte_and_its_layers_are_told(home: Home, slow: SlowRegistry) -> None:
    one = home.client().runs.submit(Task(image=slow.image, commands=["wc -c < /large"]))
    got_bytes = 0
    for now in one.changes():
        if (pull := now.view.jobs[0].pull) is not None and pull.got_bytes > 1 << 20:
            got_bytes = pull.got_bytes
            slow.give_rest()
    assert (b"".join(one.logs()), one.status, got_bytes > 0) == (f"{8 << 20}\n".encode(), RunStatus.DONE, True)
    told = [event.message for event in home.client().events.list() if event.kind == "job.layer"]
    # Podman counts the image's own description too.
    assert [message.partition(" is pulled, ")[2] for message in told] == ["1 of 3", "2 of 3", "3 of 3"]


async def test_an_image_that_no_job_has_used_for_a_week_leaves(
    podman: PodmanEngine, slow: SlowRegistry, tmp_path: Path
) -> None:
    clock = HandClock()
    host = ContainerHost(tmp_path / "home", podman.socket, clock=clock)
    slow.give_rest()
    report, _ = await host.run(slow.image)
    assert (report.exit_code, report.message) == (0, "")
    await host.runtime.sweep(lambda: [])
    assert podman.podman("image", "exists", slow.image, check=False).returncode == 0
    clock.time += timedelta(days=7)
    await host.runtime.sweep(lambda: [])
    assert podman.podman("image", "exists", slow.image, check=False).returncode == 1
