"""Files of the agent that a power cut has left empty, cut or garbled: the agent starts, and every job ends."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from dstack.agent import records
from dstack.agent.gpus.cards import Cards
from dstack.agent.jobs import Jobs
from dstack.agent.keeping import Bounds, Keeping
from dstack.agent.lives import Runtimes
from dstack.agent.paths import Home, JobFolder, socket_path, write_json
from dstack.agent.processes import end_marked, marked
from dstack.agent.records import has_rebooted
from dstack.agent.runtimes.process import ProcessRuntime
from dstack.agent.runtimes.spawning import Spawner
from dstack.agent.spawner import Spawned, start_spawner
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import LOG_STREAMS, JobOrder, JobReport, Serving
from tests.e2e.agent.agent_client import PATIENCE_S, Agent, J, connected, order_for

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "garbage": lambda whole: bytes(255 - byte for byte in whole or b"garbage"),
    "other_object": lambda whole: b'{"order": {"what": [1, 2]}, "pid": "one"}',
    "no_object": lambda whole: b"[null]",
}
HOME_DAMAGES = ("empty", "garbage", "other_object")
numbers = count()
ENDS = ("exited", "stopped", "supervisor_lost")
SCRIPTS = {"ended": "echo ran >>ran", "running": "echo ran >>ran; trap 'exit 3' TERM; while true; do sleep 0.02; done"}


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[how](whole))


class OneHost:
    """Agents of one folder, one after the other; what is to be fetched for a job that prepares never comes."""

    def __init__(self, root: Path, spawner: Spawner) -> None:
        self.home = Home(root)
        for folder in (self.home.root, self.home.jobs, self.home.forgotten, self.home.trash):
            folder.mkdir(parents=True, exist_ok=True)
        self._spawner = spawner

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Jobs]:
        runtime = ProcessRuntime(self._spawner, SystemClock(), lambda: Cards(()))
        keeping = Keeping(self.home.jobs, Bounds(1 << 30))
        jobs = Jobs(self.home, Runtimes(runtime, runtime), self._fetch, keeping, SystemClock())
        jobs.recover()
        yield jobs
        await jobs.close()

    async def _fetch(self, folder: JobFolder, order: JobOrder) -> None:
        folder.files.mkdir(exist_ok=True)
        if order.files_root is not None:
            await asyncio.Event().wait()

    async def begin(self, state: str) -> JobFolder:
        """Bring a job as far as a state, and let the agent die."""
        async with self.agent() as jobs:
            number = next(numbers)
            service = Serving(9000 + number)  # one more file
            order = order_for(f"{J}-{state}-{number}", SCRIPTS.get(state, "echo never"), service=service)
            await jobs.start(replace(order, files_root="f" * 64) if state == "preparing" else order)
            folder = self.home.job(order.job_id)
            await until(lambda: report_of(jobs, folder).state == state)
            if state == "running":
                ran = folder.files / "ran"
                await until(lambda: ran.exists() and bool(ran.read_bytes()))
            return folder


def report_of(jobs: Jobs, folder: JobFolder) -> JobReport:
    return next(report for report in jobs.reports() if report.job_id == folder.job_id)


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds. Not in a thread: the agents of this process need those themselves."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - files are looked at, too
            await asyncio.sleep(0.005)


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    start: Callable[[], Spawned] = partial(start_spawner, 1024)
    made = Spawner(start(), start)
    yield made
    made._end()


def files_of(folder: JobFolder) -> list[str]:
    """All but what the job itself printed."""
    logs = {folder.log(stream).name for stream in LOG_STREAMS}
    return sorted(path.name for path in folder.root.iterdir() if path.is_file() and path.name not in logs)


@pytest.mark.parametrize("state", ["ended", "running", "preparing"])
async def test_job_whose_file_is_damaged_or_gone_ends_and_never_runs_twice(
    tmp_path: Path, spawner: Spawner, state: str
) -> None:
    host = OneHost(tmp_path / "first", spawner)
    whole = await host.begin(state)
    names = files_of(whole)
    assert "order.json" in names
    end_marked(whole.job_id)
    at_once = asyncio.Semaphore(8)

    async def try_one(name: str, how: str) -> None:
        async with at_once:
            host = OneHost(tmp_path / f"{name}-{how}", spawner)
            folder = await host.begin(state)
            if how == "gone":
                (folder.root / name).unlink()
            else:
                damage(folder.root / name, how)
            await it_ends(host, folder, f"{name}, {how}, {state}")

    await asyncio.gather(*(try_one(name, how) for name in names for how in (*DAMAGES, "gone")))


async def it_ends(host: OneHost, folder: JobFolder, about: str) -> None:
    async with host.agent() as jobs:
        if jobs.find(folder.job_id) is None:
            assert not folder.root.exists(), f"{about}: neither known nor removed"
            return
        await jobs.stop(folder.job_id, 0)
        await until(lambda: report_of(jobs, folder).state == "ended")
        report = report_of(jobs, folder)
        assert report.end in ENDS, about
        assert report.message or report.end != "supervisor_lost", about
        assert not marked(folder.job_id), about
        ran = folder.files / "ran"
        assert not ran.exists() or ran.read_text() == "ran\n", about
    async with host.agent() as jobs:
        assert report_of(jobs, folder).end in ENDS, f"{about}: the next agent"
        await jobs.forget(folder.job_id)


async def test_process_that_may_have_started_before_the_machine_restarted_is_not_started_again(
    tmp_path: Path, spawner: Spawner
) -> None:
    host = OneHost(tmp_path / "host", spawner)
    folder = await host.begin("preparing")
    write_json(host.home.boot, {"id": "the start of the machine before"})
    async with host.agent() as jobs:
        await until(lambda: report_of(jobs, folder).state == "ended")
        report = report_of(jobs, folder)
        assert (report.end, report.message[:21]) == ("supervisor_lost", "The machine restarted")


def test_machine_has_restarted_where_another_start_is_written_down(tmp_path: Path) -> None:
    home, boot_id = Home(tmp_path), tmp_path / "boot_id"
    boot_id.write_text("one\n")
    assert [has_rebooted(home, boot_id) for _ in range(2)] == [False, False]
    boot_id.write_text("two\n")
    assert [has_rebooted(home, boot_id) for _ in range(2)] == [True, False]
    home.boot.write_bytes(b"")
    assert [has_rebooted(home, boot_id) for _ in range(2)] == [True, False]
    assert not has_rebooted(home, tmp_path / "no_such_file")


def test_start_of_the_machine_that_cannot_be_written_down_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, boot_id = Home(tmp_path), tmp_path / "boot_id"
    boot_id.write_text("two\n")
    write_json(home.boot, {"id": "one"})

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "write_json", full)
    assert [has_rebooted(home, boot_id) for _ in range(2)] == [True, True]


def home_files(home: Path) -> Iterator[Path]:
    sockets = (socket_path(home), home / "agent.log")
    yield from (path for path in home.rglob("*") if path.is_file() and path not in sockets and path.parts[-2] != "jobs")


async def test_agent_starts_and_lets_people_in_whatever_file_of_its_home_is_damaged(agent: Agent) -> None:
    home = Home(agent.home)
    async with connected(agent) as client:
        await client.start(f"{J}-first", "echo ran")
        await client.logged(f"{J}-first")
        await client.call("stop", job_id=f"{J}-unknown", grace_s=0)
        await client.until(home.ssh.exists)
    write_json(home.images, {"private": ["a"], "pulled": {"b": {"used_at": 1.0, "tags": ["x"]}}}, durable=True)
    write_json(home.cards, {"places": []})
    for how in HOME_DAMAGES:
        agent.kill()
        for path in [path for path in home_files(agent.home) if home.jobs not in path.parents]:
            damage(path, how)
        agent.start()
        async with connected(agent) as client:
            await client.start(f"{J}-{how}", "echo ran")
            ended = await client.logged(f"{J}-{how}")
            assert (ended.end, client.log_of(f"{J}-{how}")) == ("exited", b"ran\n"), how
            await client.until(lambda: client.ssh or client.welcome["ssh"])
        assert json.loads(home.ssh.read_bytes())["port"] > 0, how
