"""How much of what jobs print stays on this host: what the server has goes, and so does what is too much.

A log only grows, so its offsets never change; room is given back by holes at the beginning of its file (`kit.holes`).
Where the file system knows no holes, log files grow until their jobs are forgotten, and nothing is lost.
"""

import asyncio
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dstack.agent.paths import JobFolder
from dstack.errors import ConfigurationError
from dstack.kit.environ import positive_number
from dstack.kit.holes import punch, why_not
from dstack.kit.text import size_text

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
STEP_BYTES = 8 << 20
"""What the server has is given back in steps of this size,"""
FULL_DISK_STEP_BYTES = 64 << 10
"""and of this on a disk that is nearly full: a job may wait for that room."""
DISK_FREE_BYTES_MIN = 1 << 30
DISK_FREE_SHARE_MIN = 0.05
"""With less of the disk free than either, less is kept."""
FULL_DISK_DIVISOR = 16
UNSENT_BYTES_MAX = 1 << 30
UNSENT_BYTES_MIN = 1 << 20
"""This much of a log is always kept: its end is what people want to see."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of one job's output is kept until the server has it."""

    unsent_bytes_max: int

    def on_disk(self, free_bytes: int, total_bytes: int) -> int:
        """The bound on a disk as it is now."""
        if free_bytes >= max(DISK_FREE_BYTES_MIN, DISK_FREE_SHARE_MIN * total_bytes):
            return self.unsent_bytes_max
        less = min(self.unsent_bytes_max // FULL_DISK_DIVISOR, free_bytes // 2)
        return min(max(less, UNSENT_BYTES_MIN), self.unsent_bytes_max)


def bounds_from_env() -> Bounds:
    """What the environment says.

    Raises:
        ConfigurationError: it makes no sense.
    """
    try:
        return Bounds(positive_number("DSTACK_AGENT_LOG_BYTES_MAX", UNSENT_BYTES_MAX))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


class JobLog:
    """One stream of a job's output on this host."""

    def __init__(self, folder: JobFolder, stream: str) -> None:
        self.path = folder.log(stream)
        self.stream = stream
        self._start = folder.log_start(stream)
        self.first = _number_in(self._start)
        """The first byte that is still here. Whoever reads looks at it afterwards: what comes before is zeros."""
        self.acknowledged = self.first
        """The server has stored all bytes before this one."""

    def size(self) -> int:
        """How many bytes were printed."""
        return os.stat(self.path).st_size

    def end_of_surplus(self, unsent_bytes_max: int, step_bytes: int) -> int:
        """Return the byte up to which it has to go now.

        Args:
            unsent_bytes_max: how much is kept that the server has not stored.
            step_bytes: how much of what the server has stored goes at once, at least.
        """
        size = self.size()
        acknowledged = min(max(self.acknowledged, self.first), size)
        if size - acknowledged > unsent_bytes_max:
            # By half, so that a server that is slow gets the log in few long pieces.
            return size - unsent_bytes_max // 2
        return acknowledged if acknowledged - self.first >= step_bytes else self.first

    def give_up(self, end: int) -> None:
        """Have nothing before `end` any more. Written down first: what is gone is never taken for zeros."""
        write_number(self._start, end, durable=end > self.acknowledged)
        self.first = end
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            punch(descriptor, 0, end)
        finally:
            os.close(descriptor)


def write_number(path: Path, number: int, *, durable: bool = False) -> None:
    """In place, over the number that is there: that works on a full disk, too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, b"%020d\n" % number, 0)
        if durable:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _number_in(path: Path) -> int:
    try:
        return int(path.read_bytes())
    except FileNotFoundError:
        return 0
    except ValueError:  # a power cut: no job outlives that, and what was dropped of its log reads as zeros
        log.error("%s is damaged, and taken for lost", path)
        return 0


class Keeping:
    """Keeps the logs of all jobs within their bounds."""

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self._folder = folder
        self._bounds = bounds
        self._logs: dict[str, JobLog] = {}
        self._stirred = asyncio.Event()

    def add(self, job_id: str, job_log: JobLog) -> None:
        """See to the log of a job."""
        self._logs[job_id] = job_log
        self._stirred.set()

    def remove(self, job_id: str) -> None:
        """Its folder is gone."""
        self._logs.pop(job_id, None)

    async def run(self) -> None:
        """Look at all logs again and again, while there are any, until cancelled."""
        if (problem := await asyncio.to_thread(why_not, self._folder)) is not None:
            log.warning(
                "Logs use disk space until their jobs are deleted: files on this disk cannot have holes (%s)", problem
            )
            return
        while True:
            await self._stirred.wait()
            if not self._logs:
                self._stirred.clear()
                continue
            await asyncio.to_thread(self._look, [*self._logs.values()])
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self, logs: Iterable[JobLog]) -> None:
        try:
            disk = os.statvfs(self._folder)
            unsent_bytes_max = self._bounds.on_disk(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
            is_short = unsent_bytes_max < self._bounds.unsent_bytes_max
            for one in logs:
                self._keep_within(one, unsent_bytes_max, FULL_DISK_STEP_BYTES if is_short else STEP_BYTES)
        except OSError as error:
            log.warning("Logs cannot be kept within their limits: %s", error)

    def _keep_within(self, one: JobLog, unsent_bytes_max: int, step_bytes: int) -> None:
        try:
            end = one.end_of_surplus(unsent_bytes_max, step_bytes)
            if end <= one.first:
                return
            if (lost_bytes := end - max(one.first, one.acknowledged)) > 0:
                log.warning("%s of %s are dropped: the server has not taken them", size_text(lost_bytes), one.path)
            one.give_up(end)
        except FileNotFoundError:
            return  # the job was forgotten meanwhile
