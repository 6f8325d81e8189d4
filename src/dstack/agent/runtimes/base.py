"""What every runtime does for a job. All it knows of a job is its folder, so that a restarted agent knows as much."""

import asyncio
import logging
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from dstack.agent import confidential, processes
from dstack.agent.metrics.usage import Usage
from dstack.agent.output import empty_pipe, holding_pipe, lost_in_words, make_pipe
from dstack.agent.paths import JobFolder, take_lock, write_json
from dstack.agent.records import Ending, read_ending, read_start
from dstack.agent.runtimes.last_resort import end_below, until_lost
from dstack.errors import DstackError
from dstack.protocol.agent import JobOrder, Layer

log = logging.getLogger(__name__)

LOOK_S = 0.02
CARRIER_LOOK_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.2
"""Between the looks whether a lock is free. A carrier lets go of it at once, and the end of its job waits for that."""

Tell = Callable[[tuple[Layer, ...]], None]
"""Hears how far the layers of a job's image are."""


Spawn: TypeAlias = Callable[[JobFolder, float], Awaitable[object]]
"""Forks the supervisor or the carrier of a job that was started at a time, in seconds since the epoch."""

Usages: TypeAlias = dict[str, Usage]
"""By job."""


class Runtime(ABC):
    """Runs jobs in one way. All methods may be called again after a crash in the middle of them."""

    @abstractmethod
    def was_started(self, folder: JobFolder) -> bool:
        """Whether this job was ever started, and so must not be started again."""

    async def prepare(self, folder: JobFolder, order: JobOrder, tell: Tell) -> None:
        """Have here what the job needs beside its files. May be cancelled.

        Raises:
            AgentRefused: it cannot be had.
        """
        return

    @abstractmethod
    async def start(self, folder: JobFolder, order: JobOrder, started_at: float) -> None:
        """Start a job whose files are in place.

        Args:
            started_at: seconds since the epoch; it is what the job's reports say from now on.

        Raises:
            AgentRefused: it cannot be started.
        """

    @abstractmethod
    def started_at(self, folder: JobFolder) -> float | None:
        """When a job was started, in seconds since the epoch; None where it was not, or nobody knows."""

    @abstractmethod
    def working_dir(self, folder: JobFolder, order: JobOrder) -> str | None:
        """Where a started job's commands began, as those see it who are inside; None where nobody knows."""

    @abstractmethod
    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        """Wait until a started job, and all that came from it, has ended.

        Works for the jobs that an earlier agent started, too.
        """

    @abstractmethod
    def stop(self, folder: JobFolder) -> None:
        """Have a running job end as its file `stop` says. Does nothing where it has ended."""

    def described(self, folder: JobFolder) -> Mapping[str, Any] | None:
        """Return the container of a running job as its engine describes it; None where there is none, or not yet."""
        return None

    @abstractmethod
    def living(self, folder: JobFolder) -> set[int]:
        """Return the processes of a running job, as far as this host sees them. Blocks for milliseconds."""

    @abstractmethod
    def usage(self, folders: Sequence[JobFolder]) -> Usages:
        """What running jobs use at this moment, by id; those of which nothing can be told are left out.

        Blocks for milliseconds, and is called in a thread of its own beside all else.
        """

    async def settle(self, folder: JobFolder, ending: Ending) -> Ending:
        """Write down how a job has ended, unless that is written already. From then on nothing starts it any more.

        The end is written by the process that holds the job's lock, once all that was printed is in the log. So the
        supervisor has the last word, also one that was given up too early, or that is still to be born.

        Returns: the ending that holds.
        """
        if folder.end.exists():
            return write_down(folder, ending)
        lock = await self._take_over(folder)
        try:
            return await asyncio.to_thread(self._finish, folder, ending)
        finally:
            os.close(lock)

    @contextmanager
    def holding_output(self, folder: JobFolder, *, is_new: bool) -> Iterator[None]:
        """Keep what a job has printed from being lost with whoever is killed.

        Args:
            is_new: whether the job has not been started.
        """
        if is_new:
            # An agent of an earlier version accepted it without a pipe; what is wrong then is seen at the start.
            with suppress(OSError):
                make_pipe(folder)
        with holding_pipe(folder):
            yield

    def ask_for_lock(self, folder: JobFolder) -> None:
        """Have the process that holds a job's lock bring its work to an end, and let go of it."""
        if (pid := pid_of(folder)) is not None:
            processes.send(signal.SIGTERM, [pid])
            processes.send(signal.SIGCONT, [pid])

    def end_what_is_left(self, folder: JobFolder) -> None:
        """End what may still print, once nothing but this agent looks after the job. Blocks."""
        return

    async def _take_over(self, folder: JobFolder) -> int:
        """The lock of a job, to be closed."""
        losing: dict[int, asyncio.Task[None]] = {}
        pause_s = FIRST_PAUSE_S
        try:
            while (lock := await asyncio.to_thread(take_lock, folder.lock, tries=1)) is None:
                self.ask_for_lock(folder)
                if (pid := pid_of(folder)) is not None and pid not in losing:
                    now_s = asyncio.get_running_loop().time()
                    losing[pid] = asyncio.create_task(until_lost(pid, now_s), name=f"last resort for process {pid}")
                for pid in [pid for pid, task in losing.items() if task.done()]:
                    await asyncio.to_thread(end_below, pid)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            return lock
        finally:
            for task in losing.values():
                task.cancel()

    def _finish(self, folder: JobFolder, ending: Ending) -> Ending:
        if not folder.end.exists():
            self.end_what_is_left(folder)
            if lost := lost_in_words(empty_pipe(folder)):
                ending = replace(ending, message="; ".join(filter(None, (ending.message, lost))))
        return write_down(folder, ending)

    async def clean_up(self, folder: JobFolder) -> None:
        """Remove what a job that has ended left outside its folder."""
        return

    async def sweep(self, unfinished: Callable[[], Collection[str]]) -> None:
        """Remove what jobs left that are over, where that could not be done before, and what none has needed for long.

        Args:
            unfinished: tells the ids of those that are not over at this moment.
        """
        return


def write_start(folder: JobFolder, path: Path, known: Mapping[str, object]) -> None:
    """Write down that a job was started: it never will be again, and so its secrets are forgotten. Blocks."""
    write_json(path, known, durable=True)
    confidential.forget(folder)


async def keep_carried(folder: JobFolder, started_at: float, spawn: Spawn) -> None:
    """See that a job has a carrier. One that is killed is replaced by its twin, unless that is killed, too."""
    while folder.pipe.exists():
        await asyncio.sleep(CARRIER_LOOK_S)
        with suppress(DstackError, OSError):  # the host lets no process start, or no file be opened, just now
            if not folder.has_writer():
                log.warning("The carrier of job %s was killed, and is replaced", folder.job_id)
                await spawn(folder, started_at)


def pid_of(folder: JobFolder) -> int | None:
    """The process that holds a job's lock, or held it last; None where there was none yet."""
    known = read_start(folder)
    return None if known is None else known.pid


def write_down(folder: JobFolder, ending: Ending) -> Ending:
    """Write down how a job has ended, unless that is written already. Returns the ending that holds. Blocks."""
    confidential.forget(folder)  # a start that came twice has kept it again
    if (known := read_ending(folder)) is not None:
        return known
    try:
        write_json(folder.end, asdict(ending), durable=True)
    except OSError as error:  # it is told all the same, while this agent lives
        log.error("The end of job %s is not written down: %s", folder.job_id, error)
    return ending
