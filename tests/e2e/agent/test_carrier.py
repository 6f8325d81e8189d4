"""The carrier of a container job, without an engine: what the test prints into the pipe stands for the container."""

import asyncio
import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from dstack.agent import carrier
from dstack.agent.admission import accept
from dstack.agent.output import holding_pipe, waiting_bytes
from dstack.agent.paths import JobFolder, read_json
from dstack.agent.processes import below, parents
from dstack.agent.runtimes import base
from dstack.agent.runtimes.base import pid_of
from dstack.kit.locks import is_locked
from dstack.protocol.agent import Container
from tests.e2e.agent.agent_client import PATIENCE_S, J, order_for
from tests.e2e.agent.container_host import spawn, until


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = JobFolder(tmp_path / J)
    accept(made, replace(order_for(J, "true"), container=Container("image")))
    return made


def prints(folder: JobFolder, text: bytes) -> None:
    with open(folder.pipe, "wb", buffering=0) as pipe:
        pipe.write(text)


async def a_carrier_other_than(folder: JobFolder, *killed: int | None) -> int:
    await until(lambda: is_locked(folder.lock) and pid_of(folder) not in (None, *killed))
    pid = pid_of(folder)
    assert pid is not None
    return pid


async def test_a_killed_carrier_is_replaced_by_its_twin_and_no_byte_is_lost(folder: JobFolder) -> None:
    killed: list[int] = []
    with holding_pipe(folder):
        await spawn(folder, 1.0)
        for number in range(5):
            carrier = await a_carrier_other_than(folder, *killed)
            prints(folder, b"%d\n" % number)
            os.kill(carrier, signal.SIGKILL)
            killed.append(carrier)
        carrier = await a_carrier_other_than(folder, *killed)
        prints(folder, b"last\n")
        os.kill(carrier, signal.SIGTERM)
        await until(lambda: not is_locked(folder.lock))
        assert waiting_bytes(folder) == 0
    assert folder.log("job").read_bytes() == b"0\n1\n2\n3\n4\nlast\n"
    assert (read_json(folder.pid, dict) or {})["started_at"] == 1.0


async def test_a_killed_twin_is_replaced(folder: JobFolder) -> None:
    await spawn(folder, 1.0)
    carrier = await a_carrier_other_than(folder)
    twins = below([carrier], parents())
    os.kill(*twins, signal.SIGKILL)
    await until(lambda: below([carrier], parents()) not in (set(), twins))
    os.kill(carrier, signal.SIGKILL)
    second = await a_carrier_other_than(folder, carrier)
    os.kill(second, signal.SIGTERM)
    await until(lambda: not is_locked(folder.lock))


async def test_a_carrier_ends_with_the_folder_of_its_job(folder: JobFolder) -> None:
    await spawn(folder, 1.0)
    carrier = await a_carrier_other_than(folder)
    shutil.rmtree(folder.root)
    os.kill(carrier, signal.SIGCHLD)  # without it, the carrier looks in a while
    await until(lambda: carrier not in parents())


async def test_carrier_goes_on_without_a_twin_where_no_process_can_be_forked(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoForks(carrier._Carrier):
        def __init__(self, folder: JobFolder, started_at: float) -> None:
            super().__init__(folder, started_at)
            os.fork = refuse

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(carrier, "_Carrier", NoForks)
    with holding_pipe(folder):
        await spawn(folder, 1.0)
        pid = await a_carrier_other_than(folder)
        prints(folder, b"said\n")
        await until(lambda: folder.log("job").read_bytes() == b"said\n")
        os.kill(pid, signal.SIGTERM)
        await until(lambda: not is_locked(folder.lock))


async def test_carrier_is_watched_on_where_no_file_can_be_opened_for_a_while(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, spawned = iter(range(1000)), asyncio.Event()

    def look(folder: JobFolder) -> bool:
        if (number := next(looks)) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return number != 2

    async def note_spawn(folder: JobFolder, started_at: float) -> None:
        spawned.set()

    monkeypatch.setattr(base, "CARRIER_LOOK_S", 0.0)
    monkeypatch.setattr(JobFolder, "has_writer", look)
    watching = asyncio.create_task(base.keep_carried(folder, 1.0, note_spawn))
    async with asyncio.timeout(PATIENCE_S):
        await spawned.wait()
    watching.cancel()
