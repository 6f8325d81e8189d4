"""Jobs as plain processes of this host, each below a supervisor of its own."""

import asyncio
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dstack.agent import confidential, processes
from dstack.agent.gpus.cards import Cards
from dstack.agent.metrics.trees import owners, read_processes, usage_of
from dstack.agent.notes import note
from dstack.agent.paths import JobFolder, write_json
from dstack.agent.pythons import make_environment
from dstack.agent.records import Ending, read_ending, read_grace_s, read_start, written_at
from dstack.agent.runtimes.base import LOOK_S, Runtime, Tell, Usages, pid_of
from dstack.agent.runtimes.last_resort import end_below, until_lost
from dstack.agent.runtimes.spawning import Spawner
from dstack.kit.clock import Clock
from dstack.protocol.agent import JobOrder

DIED_AT_BIRTH = "The process that was to watch over the job died before the job began"

ENVIRONMENTS_AT_ONCE = os.cpu_count() or 1
"""One keeps a core busy for seconds."""


@dataclass(slots=True)
class _Resort:
    """What is done where a supervisor does not bring about an end in time."""

    end: str
    due_s: float
    """When it should have been there, in the loop's seconds."""
    is_reached: bool = False
    task: "asyncio.Task[None] | None" = None

    async def run(self, pid: int) -> None:
        """Wait for as long as the supervisor may take, then end the job without it."""
        await until_lost(pid, self.due_s)
        self.is_reached = True
        await asyncio.to_thread(end_below, pid)


class ProcessRuntime(Runtime):
    """Runs jobs below supervisors that the spawner forks."""

    def __init__(self, spawner: Spawner, clock: Clock, cards: Callable[[], Cards]) -> None:
        """Args: `cards`: says which cards this host has; may block."""
        self._spawner = spawner
        self._cards = cards
        self._clock = clock
        self._making = asyncio.Semaphore(ENVIRONMENTS_AT_ONCE)
        self._pidfds: dict[str, int] = {}
        """Of running jobs, by id."""
        self._resorts: dict[str, _Resort] = {}
        """Of running jobs whose end is to come at some time, by id."""

    def was_started(self, folder: JobFolder) -> bool:
        return folder.pid.exists() or folder.has_writer()

    def started_at(self, folder: JobFolder) -> float | None:
        known = read_start(folder)
        return written_at(folder.pid) if known is None else known.started_at

    async def prepare(self, folder: JobFolder, order: JobOrder, tell: Tell) -> None:
        """Make the virtual environment of the Python that the job asks for."""
        if order.python is not None:
            async with self._making:
                interpreter = await make_environment(order.python, folder.environment)
            note(folder, self._clock, f"made a virtual environment of {interpreter}")

    async def start(self, folder: JobFolder, order: JobOrder, started_at: float) -> None:
        await asyncio.to_thread(self._write_down, folder, order)
        pid, is_the_only_one = await self._spawner.fork(folder, started_at)
        if is_the_only_one:
            self._open(folder, pid)
        if folder.job_id not in self._pidfds:
            await _watched(folder, pid)

    def _write_down(self, folder: JobFolder, order: JobOrder) -> None:
        """Write down what the supervisor reads beside the order. Blocks."""
        if visible := self._cards().visible(order.gpus):
            write_json(folder.visible, visible)
        confidential.keep(folder, order)  # somebody may have cleaned up there

    def working_dir(self, folder: JobFolder, order: JobOrder) -> str:
        return os.path.normpath(folder.files.resolve() / order.working_dir)

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        if folder.job_id not in self._pidfds and (pid := pid_of(folder)) is not None:
            self._open(folder, pid)
            if not folder.has_writer():
                # The pid may be another process's by now.
                self._close(folder)
        if order.max_duration_s is not None and (pid := self._supervisor(folder)) is not None:
            left_s = order.max_duration_s + order.stop_grace_s - processes.age_s(pid)
            self._end_without_it(folder, "max_duration", left_s)
        try:
            if (pidfd := self._pidfds.get(folder.job_id)) is not None:
                await _readable(pidfd)
            if folder.has_writer():
                await _unlocked(folder.lock)
        finally:
            self._close(folder)
            end = self._do_not_end(folder)
        ending = read_ending(folder)
        return ending if ending is not None else await self._lost(folder, end)

    def stop(self, folder: JobFolder) -> None:
        if self._ask_to_stop(folder):
            self._end_without_it(folder, "stopped", read_grace_s(folder) or 0.0)

    def ask_for_lock(self, folder: JobFolder) -> None:
        with suppress(OSError):
            write_json(folder.stop, {"grace_s": 0.0})
        self._ask_to_stop(folder)

    def end_what_is_left(self, folder: JobFolder) -> None:
        if folder.pid.exists():
            processes.end_marked(folder.job_id)

    def _ask_to_stop(self, folder: JobFolder) -> bool:
        """Returns whether there is a supervisor. One that somebody has frozen goes on."""
        if (pidfd := self._pidfds.get(folder.job_id)) is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        elif (pid := self._supervisor(folder)) is not None:
            processes.send(signal.SIGTERM, [pid])
            processes.send(signal.SIGCONT, [pid])
        elif folder.has_writer():  # nobody knows who it is: it ends with all that it watches over
            processes.send(signal.SIGKILL, processes.marked(folder.job_id))
            return False
        else:
            return False
        return True

    def _supervisor(self, folder: JobFolder) -> int | None:
        """The supervisor of a job, if it lives."""
        return pid_of(folder) if folder.has_writer() else None

    def _end_without_it(self, folder: JobFolder, end: str, left_s: float) -> None:
        """Have a job end, as its supervisor should bring about within some seconds, also where that does nothing."""
        if (pid := self._supervisor(folder)) is None:
            return
        due_s = asyncio.get_running_loop().time() + left_s
        if (known := self._resorts.get(folder.job_id)) is not None:
            if known.due_s <= due_s:
                return
            if known.task is not None:
                known.task.cancel()
        resort = _Resort(end, due_s)
        resort.task = asyncio.create_task(resort.run(pid), name=f"last resort for {folder.job_id}")
        self._resorts[folder.job_id] = resort

    def _do_not_end(self, folder: JobFolder) -> str | None:
        """The supervisor is gone. Returns which end was brought about without it, if that was so."""
        resort = self._resorts.pop(folder.job_id, None)
        if resort is None:
            return None
        if resort.task is not None:
            resort.task.cancel()
        return resort.end if resort.is_reached else None

    def living(self, folder: JobFolder) -> set[int]:
        pid = self._supervisor(folder)
        return set() if pid is None else processes.descendants(pid)

    def usage(self, folders: Sequence[JobFolder]) -> Usages:
        """From what the kernel says of each process below the jobs' supervisors, and of what was started over SSH.

        Supervisors make no control groups: few hosts let them.
        """
        known = ((folder, read_start(folder)) for folder in folders)
        supervisors = {folder.job_id: start.pid for folder, start in known if start is not None}
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

    async def _lost(self, folder: JobFolder, end: str | None) -> Ending:
        """The supervisor was killed, and nobody watches what it left behind, so that ends too.

        Args:
            end: which the agent has brought about itself; None where the supervisor was killed by somebody else.
        """
        gone = await asyncio.to_thread(processes.end_marked, folder.job_id)
        if not folder.pid.exists():
            return Ending("host_failed", self._clock.now().timestamp(), message=DIED_AT_BIRTH)
        message = "The process that watched over the job was killed"
        if end is not None:
            message = "The process that watched over the job did nothing, perhaps since it was frozen; both were killed"
        return Ending(
            end or "supervisor_lost",
            self._clock.now().timestamp(),
            message=message + ("" if gone else ", and some of the job lives on"),
        )

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
