"""Jobs in containers of a real engine: any image as it is, and one clear reason where it cannot be."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dstack.api import LocalRepo, RunStatus, Task
from tests.e2e.home import Home, wait_for
from tests.engines import BARE_IMAGE, SHELL_IMAGE, DockerEngine, Registry


@pytest.fixture
def home(home: Home, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home on a machine with an engine; no container is left behind."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    home.env["DOCKER_HOST"] = engine.host
    yield home
    wait_for("the end of all containers", lambda: engine.containers() == [])


def run(home: Home, *commands: str, repo: LocalRepo | None = None, **fields: Any) -> tuple[str, RunStatus, str]:
    """What a task printed, how it ended, and why."""
    one = home.client().runs.submit(Task(commands=list(commands), **{"image": SHELL_IMAGE, **fields}), repo=repo)
    printed = b"".join(one.logs()).decode()
    one.refresh()
    return printed, one.status, one.detail or ""


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
    assert (status, detail) == (RunStatus.FAILED, "exit code 137: it ran out of memory, 0.0312GB")


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


def test_a_folder_of_the_instance_is_mounted_and_outlives_the_run(home: Home) -> None:
    volumes = [f"{home.path}/shared:/data"]
    assert run(home, "echo kept > /data/file", volumes=volumes)[1] is RunStatus.DONE
    assert run(home, "cat /data/file", volumes=volumes)[0] == "kept\n"


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


def test_a_run_without_image_needs_no_engine(home: Home) -> None:
    one = home.client().runs.submit(Task(commands=["test ! -e /dstack && echo here"]))
    assert b"".join(one.logs()) == b"here\n"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image": "127.0.0.1:1/none"}, "The image `127.0.0.1:1/none` could not be pulled: "),
        ({"image": BARE_IMAGE, "commands": ["true"]}, f"The image `{BARE_IMAGE}` has no shell (`bash` or `sh`) to run"),
        ({"commands": ["true"], "shell": "bash"}, f"The image `{SHELL_IMAGE}` has no shell (`bash`) to run `commands`"),
        ({"entrypoint": "frobnicate"}, f"The image `{SHELL_IMAGE}` has no program `frobnicate` that could be started"),
        ({}, f"The image `{SHELL_IMAGE}` does not say what to run"),
        ({"commands": ["true"], "user": "nobody-here"}, "There is no user `nobody-here` in the image"),
        (
            {"commands": ["true"], "image": "test/arm:1"},
            "The image `test/arm:1` is for aarch64, and this machine is x86_64",
        ),
        ({"commands": ["true"], "image": "../../x"}, "expected an image such as"),
    ],
)
def test_what_cannot_run_has_one_clear_reason(
    home: Home, engine: DockerEngine, fields: dict[str, Any], said: str
) -> None:
    engine.load_image("test/arm:1", [{"bin/sh": b""}], machine="arm64")
    home.write("run.yml", json.dumps({"type": "task", "name": "wrong", "image": SHELL_IMAGE, **fields}))
    result = home.cli("apply", "-y", "-f", "run.yml")
    assert (said in result.stderr, result.returncode) == (True, 1 if "../" in said else result.returncode), (
        result.stderr
    )
    if home.runs():
        assert said in home.runs()[0]["detail"]


@pytest.fixture(scope="module")
def registry(engine: DockerEngine) -> Iterator[Registry]:
    """A registry with an image of three layers that this machine does not have."""
    registry = engine.serve_registry()
    files = [{"bin/sh": Path("/bin/busybox").read_bytes()}, {"one": os.urandom(3 << 20)}, {"two": os.urandom(2 << 20)}]
    engine.load_image(f"{registry.host}/team/app:1", files)
    engine.docker("push", f"{registry.host}/team/app:1")
    engine.docker("logout", registry.host)
    engine.docker("rmi", f"{registry.host}/team/app:1")
    yield registry
    registry.stop()


def test_a_private_image_is_pulled_with_its_password_and_its_layers_are_told(
    home: Home, engine: DockerEngine, registry: Registry
) -> None:
    image = f"{registry.host}/team/app:1"
    home.client().secrets.set("REGISTRY", registry.password)
    auth = {"username": registry.user, "password": "${{ secrets.REGISTRY }}"}
    assert run(home, "cat /one | wc -c", image=image, registry_auth=auth) == (f"{3 << 20}\n", RunStatus.DONE, "")
    said = [event.message for event in home.client().events.list() if event.kind in ("job.layer", "job.pulling")]
    assert said[0] == "job 0/0 is pulling"
    assert sorted(message.partition(" is here, ")[2] for message in said[1:]) == ["1 of 3", "2 of 3", "3 of 3"]
    others = run(home, "true", image=image)
    assert others[1] is RunStatus.FAILED, "who may not pull it may not use what somebody else has pulled"
    assert "or it needs a login" in others[2]
    engine.docker("rmi", image)


@pytest.mark.parametrize(
    ("auth", "name", "said"),
    [
        ({"username": "puller", "password": "wrong"}, "team/app:1", "refuses the user `puller`"),
        (None, "team/app:1", "There is no image `127.0.0.1:5001/team/app:1`, or it needs a login"),
        ({"username": "puller", "password": "right-password"}, "team/none:1", "There is no image"),
        ({"username": "puller", "password": "right-password"}, "team/app@sha256:" + "0" * 64, "There is no image"),
    ],
)
def test_an_image_that_cannot_be_had_is_told_with_what_to_do(
    home: Home, registry: Registry, auth: dict[str, str] | None, name: str, said: str
) -> None:
    _, status, detail = run(home, "true", image=f"{registry.host}/{name}", registry_auth=auth)
    assert status is RunStatus.FAILED
    assert said in detail
    assert registry.password not in detail


def test_without_an_engine_the_plan_says_what_to_do(home: Home) -> None:
    home.env["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    home.write("run.yml", json.dumps({"type": "task", "image": "ubuntu", "commands": ["true"]}))
    result = home.cli("apply", "-y", "-f", "run.yml")
    assert "image: asked ubuntu, has no container engine (no Docker or Podman answers on this machine)" in result.stderr
    assert result.returncode == 1 and home.runs() == []


def test_containers_of_a_job_are_removed_even_where_the_engine_was_away_at_its_end(
    home: Home, engine: DockerEngine
) -> None:
    assert os.path.exists(engine.socket)
    printed, status, _ = run(home, "echo done")
    assert (printed, status) == ("done\n", RunStatus.DONE)
