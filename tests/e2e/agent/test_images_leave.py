"""Images that this agent pulled leave when no job has used them for a week, or when the disk is nearly full."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dstack.agent.disks import Disk
from dstack.protocol.agent import Container
from tests.e2e.agent.container_host import ROOMY, ContainerHost, until
from tests.engines import SHELL_IMAGE, DockerEngine, Registry
from tests.making import HandClock

WEEK = timedelta(days=7)
FULL = Disk(10**12, 10**9)


@pytest.fixture(scope="module")
def names(engine: DockerEngine) -> Iterator[list[str]]:
    """Three images that a registry has, each with a shell."""
    registry = engine.serve_registry()
    engine.docker("login", "-u", registry.user, "--password-stdin", registry.host, input=registry.password.encode())
    names = [f"{registry.host}/team/image{number}:1" for number in range(3)]
    for name in names:
        engine.load_image(name, [{"bin/sh": Path("/bin/busybox").read_bytes()}, {"own": os.urandom(1000)}])
        engine.docker("push", name)
        engine.docker("rmi", name)
    yield names
    registry.stop()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def host(tmp_path: Path, engine: DockerEngine, clock: HandClock) -> ContainerHost:
    return ContainerHost(tmp_path / "home", engine.socket, clock=clock)


async def use(host: ContainerHost, *images: str) -> None:
    for image in images:
        report, _ = await host.run(image, username=Registry.user, password=Registry.password)
        assert (report.exit_code, report.message) == (0, "")


async def clean(host: ContainerHost) -> None:
    await host.runtime.sweep(lambda: [])


def here(engine: DockerEngine, names: list[str]) -> list[int]:
    known = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    return [number for number, name in enumerate(names) if name in known]


async def test_what_no_job_has_used_for_a_week_leaves_and_what_was_here_before_stays(
    host: ContainerHost, engine: DockerEngine, clock: HandClock, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    engine.docker("pull", names[2])
    [digest] = json.loads(engine.docker("inspect", "-f", "{{json .RepoDigests}}", names[2]).stdout)
    engine.docker("rmi", names[2])
    engine.docker("pull", digest)
    await use(host, *names)
    clock.time += WEEK - timedelta(hours=1)
    await clean(host)
    assert here(engine, names) == [0, 1, 2]
    await use(host, names[1])
    clock.time += timedelta(hours=1)
    caplog.set_level("INFO")
    await clean(host)
    assert here(engine, names) == [1, 2]
    assert f"removed the image {names[0]}: no job has used it for 7 days" in caplog.text
    clock.time += 2 * WEEK
    await clean(host)
    assert here(engine, names) == [2], "who pulled it by hand may want it still"
    assert SHELL_IMAGE in engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    engine.docker("rmi", names[2])


async def test_while_the_disk_is_nearly_full_the_longest_unused_leave_first(
    host: ContainerHost, engine: DockerEngine, clock: HandClock, names: list[str]
) -> None:
    await use(host, names[0], names[1])
    clock.time += timedelta(minutes=1)
    await use(host, names[0])
    job_id = await host.start(names[2], username=Registry.user, password=Registry.password)
    host.disk = FULL
    await host.end_of(job_id)
    # Before the pull, so that it finds room.
    notes = host.notes(job_id)
    order = [
        notes.index(f"removed the image {name}: the disk is nearly full, 1.0 GB are free") for name in names[1::-1]
    ]
    assert order == sorted(order) and order[-1] < notes.index(f"pulling the image {names[2]}")
    assert here(engine, names) == [2]
    host.disk = None  # of an engine in a machine of its own
    await clean(host)
    assert here(engine, names) == [2]
    host.disk = FULL
    await clean(host)
    assert here(engine, names) == []
    host.disk = ROOMY


async def test_an_image_that_a_job_or_somebody_else_needs_stays(
    host: ContainerHost, engine: DockerEngine, clock: HandClock, names: list[str]
) -> None:
    await use(host, names[0], names[1])
    engine.docker("create", "--name", "theirs", names[1], "true")
    clock.time += WEEK
    busy = await host.start(names[2], "sleep 60", username=Registry.user, password=Registry.password)
    host.disk = FULL
    await until(lambda: "started container" in host.notes(busy))
    await host.runtime.sweep(lambda: [busy])
    assert here(engine, names) == [1, 2]
    await host.jobs.stop(busy, 0)
    await host.end_of(busy)
    engine.docker("rm", "theirs")
    engine.docker("tag", names[1], "their/name:1")
    await clean(host)
    assert here(engine, names) == [1], "it has another name by now"
    engine.docker("rmi", names[1], "their/name:1")


async def test_an_image_stays_from_its_pull_to_the_end_of_its_job(
    host: ContainerHost, engine: DockerEngine, names: list[str]
) -> None:
    container = Container(names[0], Registry.user, Registry.password)
    host.disk = FULL
    await host.images.fetch("job", container, lambda layers: None, lambda text: None)
    await clean(host)
    assert here(engine, names) == [0], "although there is no container yet"
    host.images.release("job", None)
    await clean(host)
    assert here(engine, names) == []


async def test_an_agent_that_starts_anew_remembers_what_it_pulled(
    host: ContainerHost, engine: DockerEngine, clock: HandClock, names: list[str], tmp_path: Path
) -> None:
    await use(host, names[0])
    clock.time += WEEK
    await clean(ContainerHost(tmp_path / "home", engine.socket, clock=clock))
    assert here(engine, names) == []


async def test_containers_that_an_ended_job_left_are_swept_and_those_of_others_are_not(
    host: ContainerHost, engine: DockerEngine
) -> None:
    running = await host.start(script="sleep 60")
    wanted = f"dstack-{running}"
    engine.docker("create", "--name", "theirs", SHELL_IMAGE, "true")
    await until(lambda: wanted in engine.containers())
    await host.runtime.sweep(lambda: [running])
    assert set(engine.containers()) == {wanted, "theirs"}
    await host.runtime.sweep(lambda: [])
    assert engine.containers() == ["theirs"]
    await host.end_of(running)
    engine.docker("rm", "theirs")
