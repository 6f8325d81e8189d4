"""The agent's process: what is made, in which order, and how it leaves."""

import asyncio
import logging
import os
import signal
import stat
import sys
from asyncio import Event
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from dstack.agent import confidential
from dstack.agent.connecting import bind_private
from dstack.agent.containers.api import ContainerEngine
from dstack.agent.containers.making import Maker
from dstack.agent.containers.store import ImageStore
from dstack.agent.fetching import fetch_files
from dstack.agent.files import BlobCache
from dstack.agent.gpus import found
from dstack.agent.jobs import Jobs
from dstack.agent.keeping import Bounds, Keeping, bounds_from_env
from dstack.agent.link import Link
from dstack.agent.lives import Runtimes
from dstack.agent.metrics.sampler import Sampler
from dstack.agent.paths import Home, socket_path
from dstack.agent.resources import probe
from dstack.agent.runtimes.container import ContainerRuntime
from dstack.agent.runtimes.process import ProcessRuntime
from dstack.agent.runtimes.spawning import Spawner
from dstack.agent.spawner import Spawned, start_spawner
from dstack.agent.sshd.keeper import SshServer
from dstack.agent.wants import Wants
from dstack.kit.clock import SystemClock
from dstack.kit.tasks import TaskGroup
from dstack.protocol.frames import LINE_BYTES_MAX

LOG_BYTES_MAX = 4 << 20
BACKLOG = 16


class BoundedLog(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the standard error, which the starter has sent to a file, and empties that file when it is too long."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        descriptor = sys.stderr.fileno()
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size > LOG_BYTES_MAX:
            os.ftruncate(descriptor, 0)
        super().emit(record)


def run(home: Home, spawned: Spawned, descriptors_max: int, ready_descriptor: int | None) -> None:
    """Be the agent of a home folder, whose lock this process holds, until told to leave.

    Args:
        descriptors_max: how many files and sockets jobs, and who comes into them, may have open.

    Raises:
        ConfigurationError: the environment asks for what makes no sense.
    """
    logging.basicConfig(
        handlers=[BoundedLog()], level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(_live(home, spawned, bounds_from_env(), descriptors_max, ready_descriptor))


async def _live(
    home: Home, spawned: Spawned, bounds: Bounds, descriptors_max: int, ready_descriptor: int | None
) -> None:
    leaving = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    clock, wants = SystemClock(), Wants()
    engine = ContainerEngine()
    spawner = Spawner(spawned, partial(start_spawner, descriptors_max))
    plain = ProcessRuntime(spawner, clock, found.cards)
    maker, images = Maker(home, engine, found.cards), ImageStore(home.images, engine, clock)
    keeping = Keeping(home.jobs, bounds)
    runtimes = Runtimes(plain, ContainerRuntime(engine, clock, maker, images, spawner.fork))
    jobs = Jobs(home, runtimes, partial(fetch_files, BlobCache(home.blobs, wants.fetch), clock), keeping, clock)
    sampler = Sampler(jobs, clock)
    jobs.on_run = sampler.job_runs
    jobs.recover()
    confidential.sweep(home)
    found.keep_places(home.cards, hold=bool(jobs.unfinished()))
    link = Link(jobs, wants, sampler.points, partial(probe, home.root), clock, on_shutdown=leaving.set)
    async with _listening(link, socket_path(home.root)):
        if ready_descriptor is not None:
            os.write(ready_descriptor, b"ready\n")
            os.close(ready_descriptor)
        sshd = SshServer(home, descriptors_max, link.announce_ssh, jobs.guests_changed)
        jobs.on_end = sshd.job_ended
        beside = TaskGroup()
        beside.keep("keeps the SSH server", sshd.keep)
        beside.keep("reads what jobs use", sampler.run)
        beside.keep("looks for a container engine", link.look_for_engine)
        beside.keep("keeps logs within their bounds", keeping.run)
        beside.keep("removes what jobs left behind", jobs.keep_clean)
        await leaving.wait()
        await beside.close()
    await jobs.close()
    confidential.sweep(home)


@asynccontextmanager
async def _listening(link: Link, path: Path) -> AsyncIterator[None]:
    listener = bind_private(path)
    server = await asyncio.start_unix_server(link.serve, sock=listener, limit=LINE_BYTES_MAX, backlog=BACKLOG)
    try:
        yield
    finally:
        server.close()
        await link.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a moment, at the very end
