"""Jobs in containers of a real engine, any image as it is: how they start, run, end, and outlive their agent."""

import json
from pathlib import Path

import pytest

from dstack.api import LocalRepo, RunStatus, Task
from tests.e2e.home import Home
from tests.e2e.tasks import run
from tests.engines import BARE_IMAGE, SHELL_IMAGE, DockerEngine

pytestmark = pytest.mark.server("shared", engine="engine")


def test_commands_run_in_the_image_with_files_environment_and_exit_code(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("data\n")
    printed, status, detail = run(
        home,
        "cat data.txt",
        'echo "$A $DSTACK_WORKING_DIR $DSTACK_REPO_DIR $PWD $(id -u) $0"',
        "echo problem >&2",
        "exit 3",
        repo=LocalRepo.from_dir(tmp_path),
        env={"A": "1"},
    )
    assert printed == "data\n1 /workflow /workflow /workflow 0 /dstack/script\nproblem\n"
    assert (status, detail) == (RunStatus.FAILED, "exit code 3")


def test_a_user_of_the_image_owns_the_files_and_works_in_a_folder_that_is_made(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("data\n")
    command = "stat -c '%U %G' ../data.txt . ; id -un; touch new && echo wrote; pwd"
    repo = LocalRepo.from_dir(tmp_path)
    mine = run(home, command, repo=repo, user="me", working_dir="sub")
    assert mine == ("me users\nme users\nme\nwrote\n/workflow/sub\n", RunStatus.DONE, "")
    numbers = run(home, "id -u; id -g; touch new && echo wrote", user="1234:2000")
    assert numbers == ("1234\n2000\nwrote\n", RunStatus.DONE, "")


def test_an_image_without_shell_runs_as_it_is_and_its_output_is_kept(home: Home) -> None:
    assert run(home, image=BARE_IMAGE) == ("bare image\n", RunStatus.DONE, "")
    assert run(home, image=BARE_IMAGE, entrypoint="/busybox echo 'other words'") == (
        "other words\n",
        RunStatus.DONE,
        "",
    )
    assert run(home, image=BARE_IMAGE, user="4321", entrypoint="/busybox id -u") == ("4321\n", RunStatus.DONE, "")


def test_an_entrypoint_gets_the_commands(home: Home) -> None:
    assert run(home, "echo $A one", entrypoint="sh -ec", env={"A": "1"})[0] == "1 one\n"
    assert run(home, "echo two", entrypoint="env A=2")[0] == "two\n"


def test_limits_and_shared_memory_are_those_of_the_configuration(home: Home) -> None:
    resources = {"cpu": 1, "memory": "64MB", "shm_size": "16MB"}
    memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    printed, status, _ = run(home, memory, "df -m /dev/shm | awk 'NR==2 { print $2 }'", resources=resources)
    assert (printed, status) == (f"{64 << 20}\n16\n", RunStatus.DONE)
    printed, status, detail = run(home, "tail /dev/zero", resources={"memory": "32MB"})
    assert (status, detail) == (RunStatus.FAILED, "exit code 137: it ran out of memory, 32MB")


def test_files_may_lie_anywhere_in_the_image(home: Home) -> None:
    home.write("settings/inner/one.txt", "one\n")
    home.write("own.txt", "own\n")
    home.write(
        "run.yml",
        json.dumps(
            {
                "type": "task",
                "image": SHELL_IMAGE,
                "user": "me",
                "files": ["settings:/etc/settings", "own.txt:/home/me/.own", "own.txt:here.txt"],
                "commands": ["cat /etc/settings/inner/one.txt /home/me/.own here.txt; ls -A; echo more >> ~/.own"],
            }
        ),
    )
    result = home.cli("apply", "-y", "-f", "run.yml")
    assert (result.stdout, result.returncode) == ("one\nown\nown\nhere.txt\n", 0), result.stderr


def test_a_job_is_told_to_end_and_its_last_lines_are_kept(home: Home, engine: DockerEngine) -> None:
    home.gate()
    script = "trap 'echo saving; sleep 0.2; echo saved; exit 0' TERM; echo started; while :; do sleep 0.1; done"
    one = home.client().runs.submit(
        Task(image=SHELL_IMAGE, commands=[f'sh -c "{script}"'], stop_duration=30), run_name="polite"
    )
    printed = one.logs()
    assert next(printed) == b"started\n"
    one.stop()
    assert b"".join(printed).endswith(b"saving\nsaved\n")
    one.refresh()
    assert one.status is RunStatus.TERMINATED


def test_what_does_not_end_is_killed_after_its_grace(home: Home) -> None:
    one = home.client().runs.submit(
        Task(image=SHELL_IMAGE, commands=["trap '' TERM; echo started; while :; do sleep 0.1; done"], stop_duration=1)
    )
    printed = one.logs()
    assert next(printed) == b"started\n"
    one.stop()
    assert b"".join(printed) == b""
    one.refresh()
    assert one.status is RunStatus.TERMINATED


def test_max_duration_ends_a_container(home: Home) -> None:
    task = Task(image=SHELL_IMAGE, commands=["echo started; sleep 600"], max_duration=1, stop_duration=1)
    one = home.client().runs.submit(task)
    assert b"".join(one.logs()).startswith(b"started\n")
    one.refresh()
    assert (one.status, one.reason) == (RunStatus.TERMINATED, "max_duration_exceeded")


@pytest.mark.server("own")
def test_a_container_outlives_server_and_agent_and_nothing_is_lost_or_run_twice(home: Home) -> None:
    go = home.path / "shared" / "go"
    one = home.client().runs.submit(
        Task(
            image=SHELL_IMAGE,
            commands=["echo one; while [ ! -e /data/go ]; do sleep 0.05; done; echo two; exit 5"],
            volumes=[f"{go.parent}:/data"],
        )
    )
    printed = one.logs()
    assert next(printed) == b"one\n"
    home.kill_agent()
    home.kill_server()
    go.touch()
    assert b"".join(printed) == b"two\n"
    one.refresh()
    assert (one.status, one.exit_code) == (RunStatus.FAILED, 5)


@pytest.mark.parametrize("user", [None, "1000:1000"])
def test_a_container_that_opens_its_output_by_name_loses_nothing(home: Home, user: str | None) -> None:
    commands = ["echo first; echo to stderr > /dev/stderr; echo third", "seq 1 1000 | tee /dev/stderr > /dev/null"]
    one = home.client().runs.submit(Task(image=SHELL_IMAGE, commands=commands, user=user))
    numbers = b"".join(b"%d\n" % number for number in range(1, 1001))
    assert b"".join(one.logs()) == b"first\nto stderr\nthird\n" + numbers
    one.refresh()
    assert one.status == RunStatus.DONE


def test_what_a_job_leaves_in_the_background_ends_with_it(home: Home, engine: DockerEngine) -> None:
    leaves = "(setsid sh -c 'trap \"\" TERM HUP; echo left; touch left; sleep 600' &); while [ ! -e left ]; do :; done"
    assert run(home, leaves, "echo over") == ("left\nover\n", RunStatus.DONE, "")


def test_a_run_without_image_needs_no_engine(home: Home) -> None:
    one = home.client().runs.submit(Task(commands=["test ! -e /dstack && echo here"]))
    assert b"".join(one.logs()) == b"here\n"
