"""A process job is over only once nothing of it runs, nor ever will, whatever goes wrong beside it."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dstack.agent import processes
from dstack.agent.admission import accept
from dstack.agent.gpus.cards import Cards
from dstack.agent.output import holding_pipe
from dstack.agent.paths import JobFolder, write_json
from dstack.agent.processes import marked
from dstack.agent.records import Ending, read_ending, read_start
from dstack.agent.runtimes import last_resort, process, spawning
from dstack.agent.runtimes.process import ProcessRuntime
from dstack.agent.signals import SIGNALS
from dstack.agent.spawner import Spawned
from dstack.errors import HostTrouble
from dstack.kit.clock import SystemClock
from tests.e2e.agent.agent_client import PATIENCE_S, J, order_for
from tests.e2e.agent.container_host import until

FAILED = Ending("start_failed", 1.0, message="believed to have failed")


class Spawners:
    """The other end of the runtime's line: spawners that do what the test says, when it says so."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.supervisors: list[subprocess.Popen[bytes]] = []
        self.lines: list[socket.socket] = []
        self.runtime = ProcessRuntime(spawning.Spawner(self.start(), self.start), SystemClock(), lambda: Cards(()))

    def start(self) -> Spawned:
        ours, theirs = socket.socketpair()
        self.processes.append(subprocess.Popen(["sleep", "1000"]))
        self.lines.append(ours)
        return Spawned(self.processes[-1].pid, theirs)

    def close(self) -> None:
        for supervisor in self.supervisors:
            supervisor.wait(PATIENCE_S)
        for line in self.lines:
            line.close()
        for one in self.processes:
            one.kill()
            one.wait(PATIENCE_S)

    async def asked(self) -> JobFolder:
        """The folder of the next job to be started."""
        await until(lambda: bool(select.select([self.lines[-1]], [], [], 0)[0]))
        return JobFolder(Path(json.loads(self.lines[-1].recv(1 << 16))["folder"]))

    def answer(self, folder: JobFolder, **answer: object) -> None:
        self.lines[-1].sendall(json.dumps({"folder": str(folder.root), **answer}).encode() + b"\n")

    async def die(self) -> None:
        """Have the newest spawner die, and wait until it is replaced."""
        self.lines[-1].close()
        dead = len(self.lines)
        await until(lambda: len(self.lines) > dead)

    def supervise(self, folder: JobFolder) -> int:
        """Start a real supervisor, which is nobody's child that waits for it. Returns its pid."""
        program = "from dstack.agent.supervisor import supervise; from dstack.agent.paths import JobFolder\n"
        program += "from dstack.agent.records import read_order; from pathlib import Path\n"
        program += f"folder = JobFolder(Path({str(folder.root)!r})); supervise(folder, read_order(folder), 1.0)"
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        supervisor = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.supervisors.append(supervisor)
        return supervisor.pid


@pytest.fixture
async def spawner() -> AsyncIterator[Spawners]:
    made = Spawners()
    yield made
    made.runtime._spawner._end()
    made.close()


def folder_of(home: Path, name: str, script: str) -> JobFolder:
    """The folder of a job that is ready to start."""
    folder = JobFolder(home / f"{J}-{name}")
    order = order_for(folder.job_id, script)
    accept(folder, order)
    folder.files.mkdir()
    return folder


async def test_a_spawner_that_hangs_is_ended_and_replaced_and_later_jobs_start(
    tmp_path: Path, spawner: Spawners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawning, "SPAWN_TIMEOUT_S", 0.05)
    late, next_one = (folder_of(tmp_path, name, "touch ran") for name in ("late", "next"))
    with pytest.raises(HostTrouble, match=r"The process that starts jobs has died or hung 3 times in a row"):
        await spawner.runtime.start(late, order_for(late.job_id, ""), 1.0)
    assert await spawner.runtime.settle(late, FAILED) == FAILED
    for ended in spawner.processes:
        ended.wait(PATIENCE_S)
    monkeypatch.setattr(spawning, "SPAWN_TIMEOUT_S", 30.0)
    starting = asyncio.create_task(spawner.runtime.start(next_one, order_for(next_one.job_id, ""), 1.0))
    await until(lambda: len(spawner.lines) == 4)
    for folder in (late, await spawner.asked()):  # what it was asked for comes late, too
        spawner.answer(folder, pid=spawner.supervise(folder))
    await starting
    ending = await spawner.runtime.wait(next_one, order_for(next_one.job_id, ""))
    assert (ending.end, ending.exit_code, (next_one.files / "ran").exists()) == ("exited", 0, True)
    await asyncio.to_thread(spawner.supervisors[0].wait)
    assert not (late.files / "ran").exists()
    assert not late.pid.exists()


async def test_a_start_whose_answer_died_with_the_spawner_is_asked_again_and_happens_once(
    tmp_path: Path, spawner: Spawners
) -> None:
    folder = folder_of(tmp_path, "once", "echo ran >>ran; trap 'exit 7' TERM; while true; do sleep 0.02; done")
    order = order_for(folder.job_id, "")
    starting = asyncio.create_task(spawner.runtime.start(folder, order, 1.0))
    assert await spawner.asked() == folder
    first = spawner.supervise(folder)
    await until(lambda: (folder.files / "ran").exists())
    await spawner.die()
    assert await spawner.asked() == folder
    spawner.answer(folder, pid=spawner.supervise(folder))
    await starting
    write_json(folder.stop, {"grace_s": 30})
    spawner.runtime.stop(folder)
    ending = await spawner.runtime.wait(folder, order)
    assert (ending.end, ending.exit_code) == ("stopped", 7)
    assert (folder.files / "ran").read_text() == "ran\n"
    assert (start := read_start(folder)) is not None and start.pid == first


async def test_a_job_that_was_given_up_too_early_is_ended_before_its_end_is_told(
    tmp_path: Path, spawner: Spawners
) -> None:
    folder = folder_of(tmp_path, "runs", "trap '' TERM; echo up; sleep 600")
    spawner.supervise(folder)
    await until(lambda: folder.log("job").read_bytes() == b"up\n")
    ending = await spawner.runtime.settle(folder, FAILED)
    assert (ending.end, ending.exit_code) == ("stopped", 137)
    assert not marked(folder.job_id)
    assert read_ending(folder) is not None


async def test_an_end_that_the_supervisor_has_written_holds(tmp_path: Path, spawner: Spawners) -> None:
    folder = folder_of(tmp_path, "ended", "exit 7")
    spawner.supervise(folder)
    await until(folder.end.exists)
    assert (await spawner.runtime.settle(folder, FAILED)).exit_code == 7


async def test_what_a_killed_supervisor_left_is_ended_before_the_end_is_told(tmp_path: Path, spawner: Spawners) -> None:
    folder = folder_of(tmp_path, "left", "echo up; sleep 600")
    supervisor = spawner.supervise(folder)
    await until(lambda: folder.log("job").read_bytes() == b"up\n")
    os.kill(supervisor, signal.SIGKILL)
    await asyncio.to_thread(spawner.supervisors[0].wait)
    assert await spawner.runtime.settle(folder, FAILED) == FAILED
    assert not marked(folder.job_id)


async def test_a_supervisor_that_dies_before_its_job_has_begun_is_the_hosts_failure(
    tmp_path: Path, spawner: Spawners
) -> None:
    folder = folder_of(tmp_path, "unborn", "touch ran")
    order = order_for(folder.job_id, "")
    starting = asyncio.create_task(spawner.runtime.start(folder, order, 1.0))
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    spawner.answer(await spawner.asked(), pid=dead.pid)
    await starting
    assert (await spawner.runtime.wait(folder, order)).end == "host_failed"


async def test_a_kernel_without_pidfds_is_enough(
    tmp_path: Path, spawner: Spawners, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pidfd_open(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(process.os, "pidfd_open", pidfd_open)
    folder = folder_of(tmp_path, "old", "exit 7")
    order = order_for(folder.job_id, "")
    starting = asyncio.create_task(spawner.runtime.start(folder, order, 1.0))
    asked = await spawner.asked()
    spawner.answer(asked, pid=spawner.supervise(asked))
    await starting
    assert (await spawner.runtime.wait(folder, order)).exit_code == 7


async def test_a_frozen_supervisor_and_job_are_ended_by_a_stop(tmp_path: Path, spawner: Spawners) -> None:
    folder = folder_of(tmp_path, "frozen", "trap 'echo bye; exit 3' TERM; kill -STOP $PPID; kill -STOP $$; sleep 600")
    supervisor = spawner.supervise(folder)
    await until(lambda: state_of(supervisor) == "T")
    waiting = asyncio.create_task(spawner.runtime.wait(folder, order_for(folder.job_id, "")))
    write_json(folder.stop, {"grace_s": PATIENCE_S})
    spawner.runtime.stop(folder)
    ending = await asyncio.wait_for(waiting, PATIENCE_S)
    assert (ending.end, ending.exit_code) == ("stopped", 3)
    assert folder.log("job").read_bytes().startswith(b"bye\n")


@pytest.mark.parametrize("end", ["max_duration", "stopped"])
async def test_a_supervisor_that_stays_frozen_is_killed_with_its_job_when_an_end_is_due(
    tmp_path: Path, spawner: Spawners, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(last_resort, "CONTINUE_AFTER_S", 0.0)
    monkeypatch.setattr(last_resort, "FROZEN_MAX_S", 0.0)
    monkeypatch.setattr(last_resort, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(processes, "is_frozen", lambda pid: True)
    # One process of it has dropped the job's marker.
    script = "env -i sleep 600 & echo $! >unmarked; echo up; kill -STOP $PPID; sleep 600"
    folder = folder_of(tmp_path, f"stays-{end}", script)
    order = order_for(folder.job_id, "", stop_grace_s=0.0, max_duration_s=0.1 if end == "max_duration" else None)
    with holding_pipe(folder):
        supervisor = spawner.supervise(folder)
        await until(lambda: state_of(supervisor) == "T")
        waiting = asyncio.create_task(spawner.runtime.wait(folder, order))
        if end == "stopped":
            write_json(folder.stop, {"grace_s": 0.0})
            spawner.runtime._end_without_it(folder, "stopped", 0.0)
        ending = await asyncio.wait_for(waiting, PATIENCE_S)
        assert await spawner.runtime.settle(folder, ending) == ending
    assert (ending.end, ending.message) == (
        end,
        "The process that watched over the job did nothing, perhaps since it was frozen; both were killed",
    )
    assert folder.log("job").read_bytes() == b"up\n"
    assert not marked(folder.job_id)
    assert int((folder.files / "unmarked").read_text()) not in processes.parents()


def state_of(pid: int) -> str:
    """What a process does, as the kernel says in one letter."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
