"""Engines and registries that stop talking, die, and come back or not: each has one clear reason, and costs no job more
than it must.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.agent import processes
from dstack.agent.containers import watching
from dstack.domain.reasons import reason_of
from dstack.protocol.agent import JobReport, Mount
from tests.e2e.agent.container_host import ContainerHost, FailingEngine, until
from tests.engines import SHELL_IMAGE, DockerEngine
from tests.registries import SlowRegistry

STOPPED = "its container, or the container engine of the machine, was stopped"
HINT = "Start Docker or Podman on the machine (Debian: `apt install docker.io`), or leave `image` out"


@pytest.fixture
def registry(mortal: DockerEngine) -> Iterator[SlowRegistry]:
    """With an image of a small and a large layer, which comes by half."""
    layers = [{"bin/sh": Path("/bin/busybox").read_bytes()}, {"large": os.urandom(8 << 20)}]
    registry = SlowRegistry(mortal.network, layers)
    yield registry
    registry.stop()


@pytest.fixture(scope="module")
def mortal(_of_module: DockerEngine) -> DockerEngine:
    """An engine that may be killed."""
    return _of_module


@pytest.fixture(scope="module")
def _of_module() -> Iterator[DockerEngine]:
    engine = DockerEngine()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def surviving() -> Iterator[DockerEngine]:
    """An engine that may be killed, and whose containers live on then."""
    engine = DockerEngine(live_restore=True)
    engine.start()
    yield engine
    engine.stop()


def why(report: JobReport) -> tuple[str, str]:
    """What the run's reason and detail become."""
    reason, detail = reason_of(report, None)
    return str(reason), detail


def runs(host: ContainerHost, job_id: str) -> bool:
    """Whether the engine has said so, and the job too."""
    is_started = host.home.job(job_id).log("job").read_text() == "started\n"
    return is_started and host.report(job_id).state == "running"


@pytest.mark.parametrize("all", [False, True])
async def test_a_pull_in_which_nothing_moves_is_given_up(
    tmp_path: Path, mortal: DockerEngine, registry: SlowRegistry, all: bool
) -> None:
    registry.hold_back(all=all)
    host = ContainerHost(tmp_path / "home", mortal.socket, stall_s=0.5)
    report, _ = await host.run(registry.image)
    assert why(report) == (
        "creating_container_error",
        f"The pull of the image `{registry.image}` stalled: nothing came for 0.5 s. "
        "Check how the machine reaches the registry, and submit again",
    )
    registry.give_rest()


async def test_a_pull_that_moves_may_take_as_long_as_it_needs(
    tmp_path: Path, mortal: DockerEngine, registry: SlowRegistry
) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket)
    job_id = await host.start(registry.image, "wc -c < /large")
    await until(lambda: any(layer.got_bytes > 1 << 20 for layer in host.report(job_id).layers))
    registry.give_rest()
    report = await host.end_of(job_id)
    assert (report.exit_code, host.home.job(job_id).log("job").read_text()) == (0, f"{8 << 20}\n")


async def test_a_pull_goes_on_once_the_engine_is_back(
    tmp_path: Path, mortal: DockerEngine, registry: SlowRegistry
) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket)
    job_id = await host.start(registry.image, "echo here")
    await until(lambda: bool(host.report(job_id).layers))
    await asyncio.to_thread(mortal.kill_daemon)
    await until(lambda: "the container engine went away" in host.notes(job_id))
    registry.give_rest()
    await asyncio.to_thread(mortal.start_daemon)
    report = await host.end_of(job_id)
    assert (report.end, report.exit_code, report.message) == ("exited", 0, "")
    assert host.home.job(job_id).log("job").read_text() == "here\n"


async def test_an_engine_that_dies_in_a_pull_and_stays_away_is_the_reason(
    tmp_path: Path, mortal: DockerEngine, registry: SlowRegistry
) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket, away_max_s=0.3)
    job_id = await host.start(registry.image)
    await until(lambda: bool(host.report(job_id).layers))
    await asyncio.to_thread(mortal.kill_daemon)
    await until(lambda: host.report(job_id).state == "ended")
    await asyncio.to_thread(mortal.start_daemon)
    reason, detail = why(await host.end_of(job_id))
    assert reason == "host_error"
    assert detail.startswith("The container engine of the machine does not answer: ")
    assert detail.endswith(f". {HINT}")


async def test_a_job_outlives_an_engine_that_stays_away_and_its_end_is_told(
    tmp_path: Path, mortal: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = 0, processes.marked

    def marked(job_id: str) -> set[int]:
        nonlocal looks
        looks += 1
        return look(job_id)

    monkeypatch.setattr(processes, "marked", marked)
    host = ContainerHost(tmp_path / "home", mortal.socket, away_max_s=0.3)
    mount = Mount(str(tmp_path), "/shared")
    script = "echo started; while [ ! -e /shared/go ]; do sleep 0.05; done; echo went on"
    job_id = await host.start(script=script, mounts=(mount,))
    await until(lambda: runs(host, job_id))
    await asyncio.to_thread(mortal.kill_daemon)
    await until(lambda: looks > 1)
    assert host.notes(job_id).count("the container engine is away") == 1
    assert host.report(job_id).state == "running"
    (tmp_path / "go").touch()
    await until(lambda: host.report(job_id).state == "ended")
    await asyncio.to_thread(mortal.start_daemon)
    reason, detail = why(await host.end_of(job_id))
    assert host.home.job(job_id).log("job").read_text() == "started\nwent on\n"
    assert reason == "executor_error"
    assert detail.startswith("The container engine of the machine does not answer: ")
    assert mortal.containers() == []


@pytest.mark.parametrize("script", ["trap 'echo asked; exit 3' TERM; ", "trap '' TERM; "])
async def test_a_job_is_stopped_without_its_engine(tmp_path: Path, mortal: DockerEngine, script: str) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket, away_max_s=0.3)
    job_id = await host.start(script=f"{script}echo started; while :; do sleep 0.05; done")
    await until(lambda: runs(host, job_id))
    await asyncio.to_thread(mortal.kill_daemon)
    await host.jobs.stop(job_id, 1.0)
    await until(lambda: host.report(job_id).state == "ended")
    assert processes.marked(job_id) == set()
    await asyncio.to_thread(mortal.start_daemon)
    report = await host.end_of(job_id)
    assert report.end == "stopped"
    assert report.message.startswith("The container engine of the machine does not answer: ")
    assert ("asked" in host.home.job(job_id).log("job").read_text()) == ("asked" in script)
    assert mortal.containers() == []


@pytest.fixture
def hanging(mortal: DockerEngine) -> Iterator[DockerEngine]:
    """An engine that may be made to hang."""
    yield mortal
    mortal.wake_daemon()


@pytest.mark.parametrize("script", ["trap 'echo asked; exit 3' TERM; ", "trap '' TERM; "])
async def test_a_job_is_stopped_while_its_engine_hangs(
    tmp_path: Path, hanging: DockerEngine, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SIGNAL_TIMEOUT_S", 0.3)
    monkeypatch.setattr(watching, "KILL_EVERY_S", 0.3)
    host = ContainerHost(tmp_path / "home", hanging.socket)
    job_id = await host.start(script=f"{script}echo started; while :; do sleep 0.05; done")
    await until(lambda: runs(host, job_id))
    hanging.hang_daemon()
    await host.jobs.stop(job_id, 2.0)
    await until(lambda: host.report(job_id).state == "ended")
    assert processes.marked(job_id) == set()
    hanging.wake_daemon()
    report = await host.end_of(job_id)
    assert report.end == "stopped"
    assert report.message == "The container engine of the machine does not answer: it did not answer within 0.3 s"
    assert ("asked" in host.home.job(job_id).log("job").read_text()) == ("asked" in script)
    assert hanging.containers() == []


async def test_a_job_that_ends_while_its_engine_hangs_is_over(tmp_path: Path, hanging: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", hanging.socket, away_max_s=0.3, silence_max_s=0.3)
    mount = Mount(str(tmp_path), "/shared")
    script = "echo started; while [ ! -e /shared/go ]; do sleep 0.05; done"
    job_id = await host.start(script=script, mounts=(mount,))
    await until(lambda: runs(host, job_id))
    hanging.hang_daemon()
    (tmp_path / "go").touch()
    await until(lambda: host.report(job_id).state == "ended")
    assert host.report(job_id).end == "engine_lost"
    hanging.wake_daemon()
    await host.end_of(job_id)
    assert hanging.containers() == []


async def test_a_job_outlives_an_engine_that_hangs_for_a_while(tmp_path: Path, hanging: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", hanging.socket, away_max_s=0.3, silence_max_s=0.3)
    mount = Mount(str(tmp_path), "/shared")
    script = "echo started; while [ ! -e /shared/go ]; do sleep 0.05; done; exit 5"
    job_id = await host.start(script=script, mounts=(mount,))
    await until(lambda: runs(host, job_id))
    hanging.hang_daemon()
    await until(lambda: "the container engine is away (it did not answer within 0.3 s)" in host.notes(job_id))
    hanging.wake_daemon()
    (tmp_path / "go").touch()
    assert why(await host.end_of(job_id)) == ("container_exited_with_error", "exit code 5")


async def test_a_job_that_an_engine_ended_by_starting_anew_is_told_so(tmp_path: Path, mortal: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket)
    job_id = await host.start(script="echo started; sleep 600")
    await until(lambda: runs(host, job_id))
    await asyncio.to_thread(mortal.kill_daemon)
    await asyncio.to_thread(mortal.start_daemon)
    reason, detail = why(await host.end_of(job_id))
    assert reason == "container_exited_with_error"
    assert detail.endswith(": the container engine of the machine has restarted")
    assert mortal.containers() == []


async def test_a_job_goes_on_where_the_engine_lets_it_live(tmp_path: Path, surviving: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", surviving.socket)
    mount = Mount(str(tmp_path), "/shared")
    script = "echo started; while [ ! -e /shared/go ]; do sleep 0.05; done; echo went on; exit 5"
    job_id = await host.start(script=script, mounts=(mount,))
    await until(lambda: runs(host, job_id))
    await asyncio.to_thread(surviving.kill_daemon)
    await asyncio.to_thread(surviving.start_daemon)
    (tmp_path / "go").touch()
    assert why(await host.end_of(job_id)) == ("container_exited_with_error", "exit code 5")
    assert host.home.job(job_id).log("job").read_text() == "started\nwent on\n"


async def test_an_engine_that_fails_to_tell_of_a_job_for_a_while_costs_it_nothing(
    tmp_path: Path, mortal: DockerEngine
) -> None:
    engine = FailingEngine(mortal.socket, {"/json": 2, "/wait": 2})
    host = ContainerHost(tmp_path / "home", mortal.socket, engine=engine)
    mount = Mount(str(tmp_path), "/shared")
    job_id = await host.start(script="while [ ! -e /shared/go ]; do sleep 0.05; done; exit 5", mounts=(mount,))
    await until(engine.is_well)
    assert host.notes(job_id).count("the container engine does not report the job (context canceled)") == 1
    (tmp_path / "go").touch()
    assert why(await host.end_of(job_id)) == ("container_exited_with_error", "exit code 5")


@pytest.mark.parametrize("reason", ["task 1f: already exists", "id already in use"])
async def test_start_that_the_engine_has_cut_off_is_tried_again_and_then_reported(
    tmp_path: Path, mortal: DockerEngine, reason: str
) -> None:
    once = FailingEngine(mortal.socket, {"/start": 1}, reason)
    report, printed = await ContainerHost(tmp_path / "once", mortal.socket, engine=once).run(script="echo done")
    assert (report.end, printed) == ("exited", "done\n")
    twice = FailingEngine(mortal.socket, {"/start": 2}, reason)
    report, printed = await ContainerHost(tmp_path / "twice", mortal.socket, engine=twice).run(script="echo done")
    assert (report.message or "").endswith(watching.DIED_STARTING) and printed == ""


async def test_an_engine_that_never_tells_of_a_job_is_the_reason_once_nothing_of_the_job_is_left(
    tmp_path: Path, mortal: DockerEngine
) -> None:
    engine = FailingEngine(mortal.socket, {"/json": 1000})
    host = ContainerHost(tmp_path / "home", mortal.socket, away_max_s=0.3, engine=engine)
    report, printed = await host.run(script="sleep 2; echo done")
    assert (report.end, printed) == ("engine_lost", "done\n")
    assert report.message == "The container engine of the machine does not answer: context canceled"


async def test_a_job_whose_container_somebody_removes_is_over(tmp_path: Path, mortal: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket)
    job_id = await host.start(script="echo started; sleep 600")
    await until(lambda: runs(host, job_id))
    mortal.docker("rm", "-f", f"dstack-{job_id}")
    assert why(await host.end_of(job_id)) in (
        ("executor_error", "The job's container is lost: it was removed"),
        ("container_exited_with_error", f"exit code 137: {STOPPED}"),
    )


async def test_an_engine_that_is_stopped_in_good_order_ends_its_jobs_with_a_reason(
    tmp_path: Path, mortal: DockerEngine
) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket)
    job_id = await host.start(SHELL_IMAGE, "echo started; sleep 600")
    await until(lambda: runs(host, job_id))
    await asyncio.to_thread(mortal.end_daemon)
    await asyncio.to_thread(mortal.start_daemon)
    report = await host.end_of(job_id)
    assert why(report) == (
        "container_exited_with_error",
        "exit code 143: the container engine of the machine has restarted",
    )


async def test_a_job_whose_container_somebody_stops_is_told_so(tmp_path: Path, mortal: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket)
    job_id = await host.start(SHELL_IMAGE, "echo started; sleep 600")
    await until(lambda: runs(host, job_id))
    await asyncio.to_thread(mortal.docker, "stop", f"dstack-{job_id}")
    assert why(await host.end_of(job_id)) == ("container_exited_with_error", f"exit code 143: {STOPPED}")


async def test_a_job_that_ends_itself_by_a_signal_is_not_blamed_on_others(tmp_path: Path, mortal: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", mortal.socket)
    report, _ = await host.run(script="exit 143")
    assert why(report) == ("container_exited_with_error", "exit code 143")
