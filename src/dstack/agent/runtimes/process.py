"""Jobs as plain processes of this host, each below a supervisor of its own."""

import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dstack.agent import confidential, processes
from dstack.agent.gpus.cards import Cards
from dstack.agent.metrics.trees import owners, read_processes, usage_of
from dstack.agent.notes import note
from dstack.agent.paths import JobFolder, is_locked, read_json, take_lock, write_json
from dstack.agent.pythons import make_environment
from dstack.agent.runtimes.base import Runtime, Tell, Usages, write_down
from dstack.agent.supervisor import Ending
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock
from dstack.protocol.agent import JobOrder

log = logging.getLogger(__name__)

SPAWN_TIMEOUT_S = 20.0
ENVIRONMENTS_AT_ONCE = os.cpu_count() or 1
"""One keeps a core busy for seconds."""
LOOK_S = 0.02


class ProcessRuntime(Runtime):
    """Runs jobs below supervisors that the spawner forks."""

    def __init__(self, spawner: socket.socket, clock: Clock, cards: Callable[[], Cards]) -> None:
        """Args: `cards`: says which cards this host has; may block."""
        self._spawner = spawner
        self._cards = cards
        self._clock = clock
        self._streams: tuple[StreamReader, StreamWriter] | None = None
        self._asking = asyncio.Lock()
        self._making = asyncio.Semaphore(ENVIRONMENTS_AT_ONCE)
        self._pidfds: dict[str, int] = {}
        """Of running jobs, by id."""

    def was_started(self, folder: JobFolder) -> bool:
        return folder.pid.exists()

    def started_at(self, folder: JobFolder) -> float | None:
        return (read_json(folder.pid) or {}).get("started_at")

    async def prepare(self, folder: JobFolder, order: JobOrder, tell: Tell) -> None:
        """Make the virtual environment of the Python that the job asks for."""
        if order.python is not None:
            async with self._making:
                interpreter = await make_environment(order.python, folder.environment)
            note(folder, self._clock, f"made a virtual environment of {interpreter}")

    async def start(self, folder: JobFolder, order: JobOrder, started_at: float) -> None:
        cards = await asyncio.to_thread(self._cards)
        if visible := cards.visible(order.gpus):
            write_json(folder.visible, visible)
        await asyncio.to_thread(confidential.keep, folder, order)  # somebody may have cleaned up there
        request = {"folder": str(folder.root), "started_at": started_at}
        async with self._asking:
            answer = await self._ask_spawner(request)
        if "error" in answer:
            raise AgentRefused(answer["error"], hint="Restart the agent, and look at the limits of its user")
        self._open(folder, answer["pid"])
        if folder.job_id not in self._pidfds:
            await _watched(folder, answer["pid"])

    async def _ask_spawner(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(sock=self._spawner)
        reader, writer = self._streams
        try:
            async with asyncio.timeout(SPAWN_TIMEOUT_S):
                writer.write(json.dumps(request).encode() + b"\n")
                while line := await reader.readline():
                    answer: dict[str, Any] = json.loads(line)
                    if answer["folder"] == request["folder"]:
                        return answer
        except TimeoutError:
            return {"error": f"The host has started no process within {SPAWN_TIMEOUT_S:g} s"}
        except OSError as error:
            log.error("The spawner is gone: %s", error)
        return {"error": "The agent cannot start processes any more"}

    def working_dir(self, folder: JobFolder, order: JobOrder) -> str:
        return os.path.normpath(folder.files.resolve() / order.working_dir)

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        if folder.job_id not in self._pidfds and (known := read_json(folder.pid)) is not None:
            self._open(folder, known["pid"])
            if not is_locked(folder.lock):
                # The pid may be another process's by now.
                self._close(folder)
        if (pidfd := self._pidfds.get(folder.job_id)) is not None:
            await _readable(pidfd)
            self._close(folder)
        if is_locked(folder.lock):
            await _unlocked(folder.lock)
        ending = read_json(folder.end)
        return Ending(**ending) if ending is not None else await self._lost(folder)

    def stop(self, folder: JobFolder) -> None:
        if (pidfd := self._pidfds.get(folder.job_id)) is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        elif (known := read_json(folder.pid)) is not None and is_locked(folder.lock):
            processes.send(signal.SIGTERM, [known["pid"]])

    async def settle(self, folder: JobFolder, ending: Ending) -> Ending:
        """The supervisor has the last word, also one that we gave up too early, or that is still to be born."""
        if folder.end.exists():
            return write_down(folder, ending)
        while (lock := await asyncio.to_thread(take_lock, folder.lock)) is None:
            with suppress(OSError):
                write_json(folder.stop, {"grace_s": 0.0})
            self.stop(folder)
            await asyncio.sleep(LOOK_S)
        try:
            # Who has the lock later sees that it is over.
            settled = await asyncio.to_thread(write_down, folder, ending)
            if settled is ending and folder.pid.exists():
                await asyncio.to_thread(processes.end_marked, folder.job_id)
            return settled
        finally:
            os.close(lock)

    def usage(self, folders: Sequence[JobFolder]) -> Usages:
        """From what the kernel says of each process below the jobs' supervisors, and of what was started over SSH.

        Supervisors make no control groups: few hosts let them.
        """
        known = ((folder, read_json(folder.pid)) for folder in folders)
        supervisors = {folder.job_id: int(file["pid"]) for folder, file in known if file is not None}
        table = read_processes()
        roots = {pid: job_id for job_id, pid in supervisors.items() if pid in table}
        entered = {folder.job_id for folder in folders if folder.entered.exists()}
        if entered:
            below = owners(table, roots)
            marks = ((pid, processes.marker_of(pid)) for pid in table if pid not in below)
            roots |= {pid: job_id for pid, job_id in marks if job_id in entered}
        pids: dict[str, list[int]] = {job_id: [] for job_id in roots.values()}
        for pid, job_id in owners(table, roots).items():
            pids[job_id].append(pid)
        return {job_id: usage_of(some, supervisors.get(job_id, 0), table) for job_id, some in pids.items()}

    async def clean_up(self, folder: JobFolder) -> None:
        """What was started over SSH is not below the supervisor."""
        if folder.entered.exists():
            await asyncio.to_thread(processes.end_marked, folder.job_id)

    async def _lost(self, folder: JobFolder) -> Ending:
        """The supervisor was killed: nobody watches what it left behind, so that ends too."""
        gone = await asyncio.to_thread(processes.end_marked, folder.job_id)
        message = "The process that watched over the job was killed" + (
            "" if gone else ", and some of the job lives on"
        )
        return Ending("supervisor_lost", self._clock.now().timestamp(), message=message)

    def _open(self, folder: JobFolder, pid: int) -> None:
        # Without pidfds (an old kernel), and after the end, the lock says all.
        with suppress(OSError):
            self._pidfds[folder.job_id] = os.pidfd_open(pid)

    def _close(self, folder: JobFolder) -> None:
        if (pidfd := self._pidfds.pop(folder.job_id, None)) is not None:
            os.close(pidfd)


async def _watched(folder: JobFolder, supervisor: int) -> None:
    """Wait until a supervisor has written down that it is there, or is gone."""
    while not folder.pid.exists():
        try:
            os.kill(supervisor, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(LOOK_S)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


async def _unlocked(path: Path) -> None:
    """Wait until nobody holds a lock, in a thread that does not keep this process from ending."""
    loop = asyncio.get_running_loop()
    free = asyncio.Event()

    def block() -> None:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        with suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(free.set)

    threading.Thread(target=block, name=f"waits for {path}", daemon=True).start()
    await free.wait()
