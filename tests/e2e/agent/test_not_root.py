"""An agent that is not root, and may use the engine: its jobs' containers are root's, and still its own business."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import pytest

from dstack.agent import processes
from dstack.agent.containers import watching
from dstack.protocol.agent import Mount
from tests.e2e.agent.container_host import ContainerHost, until
from tests.engines import DockerEngine

NOBODY = 65534

Line: TypeAlias = "Connection[object, object]"


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """An engine for everybody, whose containers live on without it."""
    engine = DockerEngine(live_restore=True)
    engine.start()
    for path in (engine.socket.parent, engine.socket):
        path.chmod(0o777)
    yield engine
    engine.stop()


@pytest.fixture
def home() -> Iterator[Path]:
    """Others may not look into the folders of tests."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name) / "home"


def as_nobody(live: Callable[[ContainerHost, Line], Awaitable[None]], home: Path, engine: DockerEngine) -> Line:
    """Have a host in a process of a user without rights. Returns a line to it."""
    ours, theirs = Pipe()

    def run() -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)

        async def live_there() -> None:
            await live(ContainerHost(home, engine.socket, away_max_s=0.3), theirs)

        asyncio.run(live_there())

    get_context("fork").Process(target=run, daemon=True).start()
    theirs.close()
    return ours


async def tell_of_a_stop(host: ContainerHost, line: Line) -> None:
    """Have one job, which is stopped when somebody says so. Tells when it runs, of signals in vain, and of its end."""
    send = processes.send

    def tell_of_signals(number: signal.Signals, targets: Iterable[int]) -> bool:
        if not (all_ours := send(number, targets)):
            line.send("in vain")
        return all_ours

    processes.send, watching.KILL_EVERY_S = tell_of_signals, 0.3
    job_id = await host.start(script="echo started; while :; do sleep 0.1; done")
    log = host.home.job(job_id).log("job")
    await until(lambda: log.read_text() == "started\n" and host.report(job_id).state == "running")
    line.send("runs")
    await asyncio.to_thread(line.recv)
    await host.jobs.stop(job_id, 0.0)
    report = await host.end_of(job_id)
    line.send((report.end, report.exit_code, report.message))


def test_no_end_is_told_of_what_cannot_be_ended_before_the_engine_is_back(home: Path, engine: DockerEngine) -> None:
    line = as_nobody(tell_of_a_stop, home, engine)
    assert line.recv() == "runs"
    engine.kill_daemon()
    line.send("stop")
    assert (line.recv(), line.recv()) == ("in vain", "in vain")
    engine.start_daemon()
    engine.socket.chmod(0o777)
    while (said := line.recv()) == "in vain":
        pass
    assert said == ("stopped", 137, "")
    assert engine.containers() == []


async def make_a_volume(host: ContainerHost, line: Line) -> None:
    """Have one job of another user that writes into a folder of the host that was not there."""
    source = host.home.root.parent / "made/deep"
    script = "echo kept > /data/file; stat -c '%a %U' /data"
    report, said = await host.run(script=script, user="me", mounts=(Mount(str(source), "/data"),))
    await host.jobs.close()
    line.send((report.exit_code, said, (source / "file").read_text()))


def test_a_folder_that_is_made_for_a_job_is_its_users(home: Path, engine: DockerEngine) -> None:
    line = as_nobody(make_a_volume, home, engine)
    assert line.recv() == (0, "755 me\n", "kept\n")
    assert engine.containers() == []


async def forget_a_job(host: ContainerHost, line: Line) -> None:
    """Have one job that makes files, and forget it. Tells how it ended, and what is left of it."""
    report, _ = await host.run(script="mkdir -p out/deep; echo weights > out/deep/model; chmod 700 out out/deep")
    await host.jobs.forget(report.job_id)
    await host.jobs.close()
    line.send((report.exit_code, os.listdir(host.home.trash), os.listdir(host.home.jobs)))


def test_nothing_stays_of_what_a_containers_root_made(home: Path, engine: DockerEngine) -> None:
    line = as_nobody(forget_a_job, home, engine)
    assert line.recv() == (0, [], [])
    assert engine.containers() == []
