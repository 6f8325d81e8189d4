"""What every runtime does for a job. All it knows of a job is its folder, so that a restarted agent knows as much."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from dstack.agent import confidential
from dstack.agent.metrics.usage import Usage
from dstack.agent.paths import JobFolder, read_json, write_json
from dstack.agent.supervisor import Ending
from dstack.protocol.agent import JobOrder, Layer

log = logging.getLogger(__name__)

Tell = Callable[[tuple[Layer, ...]], None]
"""Hears how far the layers of a job's image are."""


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

    @abstractmethod
    def usage(self, folders: Sequence[JobFolder]) -> Usages:
        """What running jobs use at this moment, by id; those of which nothing can be told are left out.

        Blocks for milliseconds, and is called in a thread of its own beside all else.
        """

    async def settle(self, folder: JobFolder, ending: Ending) -> Ending:
        """Write down how a job has ended, unless that is written already. From then on nothing starts it any more.

        Returns: the ending that holds.
        """
        return await asyncio.to_thread(write_down, folder, ending)

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


def write_down(folder: JobFolder, ending: Ending) -> Ending:
    """Write down how a job has ended, unless that is written already. Returns the ending that holds. Blocks."""
    if (known := read_json(folder.end)) is not None:
        return Ending(**known)
    confidential.forget(folder)
    try:
        write_json(folder.end, asdict(ending), durable=True)
    except OSError as error:  # it is told all the same, while this agent lives
        log.error("The end of job %s is not written down: %s", folder.job_id, error)
    return ending
