"""Containers that cannot be: one clear reason, the same on the run, in `dstack ps` and from `dstack apply`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dstack.api import Task
from tests.e2e.home import Home, wait_for
from tests.e2e.tasks import on_engine, refreshed
from tests.engines import BARE_IMAGE, SHELL_IMAGE, DockerEngine, Registry
from tests.registries import SlowRegistry

pytestmark = pytest.mark.server("shared", engine="engine")

MIB = 1 << 20
REGISTRY = Registry.host
RIGHT = {"username": Registry.user, "password": Registry.password}
ZEROS = "0" * 64


def told(home: Home, **fields: Any) -> str:
    """Why a run could not start, which is the same wherever it is told."""
    home.write("run.yml", json.dumps({"type": "task", "name": "wrong", "image": SHELL_IMAGE, **fields}))
    result = home.cli("apply", "-y", "-f", "run.yml")
    one = home.client().runs.get("wrong")
    assert one is not None and one.reason == "creating_container_error"
    assert (result.stderr.splitlines()[-1], result.returncode) == (f"wrong: failed ({one.detail})", 1)
    row = home.cli("ps", "-a").stdout.splitlines()[1]
    assert row.startswith("wrong ") and row.endswith(one.detail)
    return one.detail


CANNOT_RUN: list[tuple[dict[str, Any], str]] = [
    (
        {"image": BARE_IMAGE, "commands": ["true"]},
        f"The image `{BARE_IMAGE}` has no shell (`bash` or `sh`) to run `commands`. "
        "Use an image with a shell, or name one of its programs as `entrypoint`",
    ),
    (
        {"commands": ["true"], "shell": "bash"},
        f"The image `{SHELL_IMAGE}` has no shell (`bash`) to run `commands`. "
        "Use an image with a shell, or name one of its programs as `entrypoint`",
    ),
    (
        {"entrypoint": "frobnicate"},
        f"The image `{SHELL_IMAGE}` has no program `frobnicate` on its PATH "
        "(/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin) that could be started. "
        "Correct `entrypoint`",
    ),
    (
        {"commands": ["true"], "entrypoint": "/no/such -c"},
        f"The image `{SHELL_IMAGE}` has no program `/no/such` that could be started. Correct `entrypoint`",
    ),
    ({}, f"The image `{SHELL_IMAGE}` has no command. Write `commands` or `entrypoint`"),
    (
        {"commands": ["true"], "user": "nobody-here"},
        "There is no user `nobody-here` in the image. Name one of its users, or a number",
    ),
    (
        {"commands": ["true"], "user": "me:nobody-here"},
        "There is no user `me:nobody-here` in the image. Name one of its users, or a number",
    ),
    (
        {"commands": ["true"], "image": "test/arm:1"},
        "The image `test/arm:1` is for aarch64, and this machine is x86_64. Name an image that is built for it",
    ),
    (
        {"commands": ["true"], "volumes": ["/proc/none/there:/data"]},
        "The folder `/proc/none/there` cannot be mounted: No such file or directory. Correct `volumes`",
    ),
    (
        {"image": "127.0.0.1:1/none"},
        'The image `127.0.0.1:1/none` could not be pulled: Get "http://127.0.0.1:1/v2/": '
        "dial tcp 127.0.0.1:1: connect: connection refused. Check its name and its registry",
    ),
]


def test_what_cannot_run_has_one_clear_reason(home: Home, engine: DockerEngine) -> None:
    engine.load_image("test/arm:1", [{"bin/sh": b""}], machine="arm64")
    for fields, detail in CANNOT_RUN:
        assert told(home, **fields) == detail


@pytest.fixture(scope="module")
def registry(engine: DockerEngine) -> Iterator[Registry]:
    """A registry with nothing in it."""
    registry = engine.serve_registry()
    engine.docker("logout", registry.host)
    yield registry
    registry.stop()


CANNOT_BE_HAD: list[tuple[str, dict[str, str] | None, str]] = [
    (
        "app:1",
        {**RIGHT, "password": "wrong"},
        f"The registry of the image `{REGISTRY}/app:1` refuses the user `puller`: "
        "unauthorized: authentication required. Correct `registry_auth`",
    ),
    (
        "app:1",
        None,
        f"There is no image `{REGISTRY}/app:1`, or it needs a login: "
        f'Head "http://{REGISTRY}/v2/app/manifests/1": no basic auth credentials. '
        "Correct `image`, or give `registry_auth`",
    ),
    (
        "none:1",
        RIGHT,
        f"There is no image `{REGISTRY}/none:1` in its registry: "
        f"manifest for {REGISTRY}/none:1 not found: manifest unknown: manifest unknown. Correct `image`",
    ),
    (
        f"app@sha256:{ZEROS}",
        RIGHT,
        f"There is no image `{REGISTRY}/app@sha256:{ZEROS}` in its registry: manifest for "
        f"{REGISTRY}/app@sha256:{ZEROS} not found: manifest unknown: manifest unknown. Correct `image`",
    ),
]


def test_an_image_that_cannot_be_had_is_told_with_what_to_do(home: Home, registry: Registry) -> None:
    for name, auth, detail in CANNOT_BE_HAD:
        assert told(home, image=f"{REGISTRY}/{name}", registry_auth=auth) == detail


def test_what_is_no_name_of_an_image_is_refused_at_once(home: Home) -> None:
    home.write("run.yml", json.dumps({"type": "task", "image": "../../x", "commands": ["true"]}))
    result = home.cli("apply", "-y", "-f", "run.yml")
    assert "expected an image such as" in result.stderr
    assert (result.returncode, home.runs()) == (1, [])


@pytest.mark.server("own")
def test_without_an_engine_the_plan_says_what_to_do(home: Home) -> None:
    home.env["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    home.write("run.yml", json.dumps({"type": "task", "image": "ubuntu", "commands": ["true"]}))
    result = home.cli("apply", "-y", "-f", "run.yml")
    why = "there is no container engine (no Docker or Podman answers on this machine)"
    assert f"`image: ubuntu` needs a container, and {why}\n" in result.stderr
    assert "hint: Start Docker or Podman on the machine" in result.stderr
    assert (result.returncode, home.runs()) == (1, [])


@pytest.mark.server("own")
def test_an_engine_that_is_started_later_serves_the_machine_that_is_there_already(
    home: Home, engine: DockerEngine, tmp_path: Path
) -> None:
    socket = tmp_path / "docker.sock"
    home.env["DOCKER_HOST"] = f"unix://{socket}"
    home.write("plain.yml", json.dumps({"type": "task", "commands": ["echo plain"]}))
    home.write("run.yml", json.dumps({"type": "task", "image": SHELL_IMAGE, "commands": ["echo inside"]}))
    assert home.cli("apply", "-y", "-f", "plain.yml").returncode == 0
    assert home.cli("apply", "-y", "-f", "run.yml").returncode == 1
    socket.symlink_to(engine.socket)
    wait_for("the engine to be seen", lambda: home.cli("apply", "-y", "-f", "run.yml", "-n", "in").returncode == 0)
    assert home.cli("logs", "in").stdout == "inside\n"
    assert len(json.loads(home.cli("pool", "--json").stdout)) == 1, "on the same machine"


@pytest.fixture
def small() -> Iterator[DockerEngine]:
    """An engine on a disk of 100 MiB."""
    small = DockerEngine(disk_bytes=100 * MIB)
    small.start()
    yield small
    small.stop()


@pytest.mark.server("own")
def test_a_full_disk_is_the_reason_of_a_pull_and_of_a_start(
    home: Home, small: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_engine(home, small, monkeypatch):
        registry = SlowRegistry(small.network, [{"large": os.urandom(150 * MIB)}])
        registry.give_rest()
        assert told(home, image=registry.image) == (
            f"The disk of the machine is too full for the image `{registry.image}`. "
            "Make room on the machine, or ask for more `disk`"
        )
        registry.stop()
        with open(small.data / "all-there-is", "wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(MIB))
        run = home.client().runs.submit(Task(image=SHELL_IMAGE, commands=["true"]))
        run = home.client().runs.submit(Task(image=SHELL_IMAGE, commands=["true"]))
        wait_for("the reason", lambda: "disk" in (refreshed(run).detail or ""))
        assert "The disk of the machine is full: " in str(run.detail)
        assert "no space left on device. Make room on the machine, or ask for more `disk`" in str(run.detail)
        Path(file.name).unlink()
        wait_for("the end", lambda: refreshed(run).status == "done")
