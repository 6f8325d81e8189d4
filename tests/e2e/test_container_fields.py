"""Every field of a configuration that shapes a job's container, with a real engine."""

import platform
from pathlib import Path

import pytest

from dstack.api import LocalRepo, RunStatus
from tests.e2e.home import Home
from tests.e2e.tasks import run
from tests.engines import BARE_IMAGE, SHELL_IMAGE, DockerEngine
from tests.machine import refused

NVIDIA = "nvidia/cuda:12.8.1-devel-ubuntu24.04"

pytestmark = pytest.mark.server("shared", engine="engine")


def printed(home: Home, *commands: str, **fields: object) -> str:
    """What a task printed that went well."""
    said, status, detail = run(home, *commands, **fields)
    assert (status, detail) == (RunStatus.DONE, "")
    return said


def derive(engine: DockerEngine, name: str, *lines: str) -> str:
    """An image like the one with a shell, with some lines of a Dockerfile more."""
    id = engine.docker("create", SHELL_IMAGE, "true").stdout.strip()
    changes = [word for line in lines for word in ("--change", line)]
    engine.docker("commit", *changes, id, name)
    engine.docker("rm", id)
    return name


def test_an_image_without_image_is_pythons_or_nvidias(home: Home, engine: DockerEngine) -> None:
    for name in ("python:3.12", "python:2.7", NVIDIA):
        derive(engine, name, f"ENV NAME={name}")
    assert printed(home, "echo $NAME", image=None, user="me") == "python:3.12\n"
    assert printed(home, "echo $NAME", image=None, python="2.7") == "python:2.7\n", "no machine has it for processes"
    assert printed(home, "echo $NAME", image=None, nvcc=True) == f"{NVIDIA}\n"


def test_what_runs_is_the_entrypoint_or_the_images_own_with_its_command(home: Home, engine: DockerEngine) -> None:
    both = derive(engine, "test/both:1", 'ENTRYPOINT ["echo", "own"]', 'CMD ["command"]')
    entry = derive(engine, "test/entry:1", 'ENTRYPOINT ["/bin/echo", "entry", "only"]', "CMD []")
    command = derive(engine, "test/command:1", 'CMD ["sh", "-c", "echo command only"]')
    assert printed(home, image=both) == "own command\n"
    assert printed(home, image=entry) == "entry only\n"
    assert printed(home, image=command) == "command only\n"
    assert printed(home, image=both, entrypoint="echo other") == "other\n", "the command belongs to the entrypoint"
    assert printed(home, "echo mine", image=both) == "mine\n", "commands need a shell, not the image's entrypoint"
    assert printed(home, image=BARE_IMAGE, user="1:2", entrypoint="/busybox id -g") == "2\n"


def test_the_environment_is_the_images_then_the_jobs_then_dstacks(home: Home, engine: DockerEngine) -> None:
    names = ("A", "B", "DSTACK_RUN_NAME", "DSTACK_REPO_DIR", "PATH")
    changed = "PATH=/own:/bin"
    image = derive(engine, "test/env:1", "ENV A=image B=image DSTACK_RUN_NAME=image", f"ENV {changed}")
    env = {"B": "job", "DSTACK_REPO_DIR": "job"}
    lines = printed(home, *(f"echo {name}=${name}" for name in names), image=image, env=env).splitlines()
    assert lines[:2] == ["A=image", "B=job"]
    assert lines[2] not in ("DSTACK_RUN_NAME=image", "DSTACK_RUN_NAME=")
    assert lines[3:] == ["DSTACK_REPO_DIR=/workflow", changed]


def test_the_images_user_and_folder_are_those_of_the_job_unless_it_says_otherwise(
    home: Home, engine: DockerEngine, tmp_path: Path
) -> None:
    image = derive(engine, "test/user:1", "USER me", "WORKDIR /home/me", 'CMD ["sh", "-c", "id -un; pwd; touch here"]')
    (tmp_path / "data.txt").write_text("data\n")
    repo = LocalRepo.from_dir(tmp_path)
    assert printed(home, image=image) == "me\n/home/me\n"
    assert printed(home, "id -un; pwd; echo more >> data.txt; cat data.txt", image=image, repo=repo) == (
        "me\n/workflow\ndata\nmore\n"
    )
    assert printed(home, "id -un; pwd", image=image, user="root", working_dir="a/b") == "root\n/workflow/a/b\n"


def test_folders_of_the_instance_are_made_where_missing_and_outlive_the_run(home: Home) -> None:
    home.write("there/file.txt", "there\n")
    volumes = [f"{home.path}/made/deep:/data", f"{home.path}/there:/there", f"{home.path}/there/file.txt:/etc/one.txt"]
    assert printed(home, "echo kept > /data/file; cat /there/file.txt /etc/one.txt", volumes=volumes) == "there\n" * 2
    assert (home.path / "made/deep/file").read_text() == "kept\n"
    assert printed(home, "cat /data/file", volumes=volumes) == "kept\n"


def test_a_privileged_container_may_do_what_others_may_not(home: Home, engine: DockerEngine) -> None:
    mount = "mkdir -p /m && mount -t tmpfs none /m 2>/dev/null && echo mounted || echo refused"
    assert printed(home, mount) == "refused\n"
    probe = engine.docker("run", "--rm", "--privileged", SHELL_IMAGE, "true", check=False)
    if probe.returncode != 0:
        assert "could not be started" in run(home, mount, privileged=True)[2], "it was asked for all the same"
        refused(f"no privileged container can start here: {probe.stderr.strip()[-300:]}")
    assert printed(home, mount, privileged=True) == "mounted\n"


def test_options_of_volumes_an_absolute_folder_and_references_have_their_effect(home: Home) -> None:
    home.write("there/file.txt", "there\n")
    home.write("no-folder", "")
    volumes: list[object] = [
        f"{home.path}/there:/there:ro",
        {"instance_path": f"{home.path}/made/cache", "path": "/cache", "optional": True},
        {"instance_path": f"{home.path}/no-folder/deep", "path": "/left-out", "optional": True},
    ]
    commands = (
        "pwd; cat /there/file.txt; touch /there/new 2>/dev/null || echo read only",
        "echo kept > /cache/file; [ -e /left-out ] || echo left out; echo $GREETING",
    )
    env = {"GREETING": "hello ${{ env.NAME }}", "NAME": "me"}
    needs = {"cpu": f"{'arm' if platform.machine() == 'aarch64' else 'x86'}:1", "gpu": "none"}
    said = printed(home, *commands, volumes=volumes, working_dir="/app/src", env=env, resources=needs)
    assert said == "/app/src\nthere\nread only\nleft out\nhello me\n"
    assert (home.path / "made/cache/file").read_text() == "kept\n"


def test_volume_that_may_be_missing_makes_a_container_of_a_job_without_image(home: Home, engine: DockerEngine) -> None:
    derive(engine, "python:3.12")
    volumes = [{"instance_path": f"{home.path}/cache", "path": "/cache", "optional": True}]
    assert printed(home, "ls -d /cache", image=None, volumes=volumes) == "/cache\n"
