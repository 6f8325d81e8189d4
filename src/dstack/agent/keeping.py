"""How much of what jobs print stays on this host: what the server has goes, and so does what is too much.

A log only grows, so its offsets never change; room is given back by holes at the beginning of its file (`kit.holes`).
A job that empties the file by opening it by its name does not shorten the log, which goes on behind (`JobLog.look`).
Where the file system knows no holes, log files grow until their jobs are forgotten, and nothing is lost.
"""

import asyncio
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from dstack.agent.full_disk import is_full
from dstack.agent.paths import JobFolder
from dstack.errors import ConfigurationError
from dstack.kit.environ import positive_number
from dstack.kit.holes import punch, why_not
from dstack.kit.text import size_text

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
STEP_BYTES = 8 << 20
"""What the server has is given back in steps of this size."""
DISK_FREE_BYTES_MIN = 1 << 30
DISK_FREE_SHARE_MIN = 0.05
"""With less of the disk free than either, less is kept."""
FULL_DISK_DIVISOR = 16
UNSENT_BYTES_MAX = 1 << 30
UNSENT_BYTES_MIN = 1 << 20
"""This much of a log is always kept: its end is what people want to see."""

TAIL_BYTES = 64
"""By so many bytes before its end a log is known again."""
APART_BYTES = 1 << 30
"""After a job has emptied its log, that goes on so far behind what is in the file then: as much has room before it."""
TAKE_BYTES = 1 << 20
EMPTIED = (
    b"[dstack: the job opened /dev/stdout or /dev/stderr by name, which emptied its log; "
    b"use >&2 or tee -a; what was not read yet is lost]\n"
)


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
        self._shift = folder.log_shift(stream)
        self.first = _number_in(self._start)
        """The first byte that is still here. Whoever reads looks at it afterwards: what comes before is zeros."""
        self.shift = _number_in(self._shift)
        """Byte N of the log is byte N + `shift` of the file. Whoever reads looks at it afterwards, too."""
        self.acknowledged = self.first
        """The server has stored all bytes before this one."""
        self._seen = (self.first, b"")
        """How far the log is known to go, and the last bytes before that."""
        self._taken = 0
        self._apart = 0
        """Bytes of the file before `_apart` are none of the log; those before `_taken` were appended to it."""
        self._lock = Lock()

    def size(self) -> int:
        """How many bytes were printed."""
        return os.stat(self.path).st_size - self.shift

    def end_of_surplus(self, unsent_bytes_max: int) -> int:
        """Up to which byte it has to go now."""
        size = self.size()
        acknowledged = min(max(self.acknowledged, self.first), size)
        if size - acknowledged > unsent_bytes_max:
            # By half, so that a server that is slow gets the log in few long pieces.
            return size - unsent_bytes_max // 2
        return acknowledged if acknowledged - self.first >= STEP_BYTES else self.first

    def give_up(self, end: int) -> None:
        """Have nothing before `end` any more. Written down first: what is gone is never taken for zeros."""
        with self._lock:
            write_number(self._start, end, durable=end > self.acknowledged)
            self.first = end
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                punch(descriptor, 0, self._taken)
                punch(descriptor, self._apart, end + self.shift)
            finally:
                os.close(descriptor)

    def saw(self, offset: int, data: bytes) -> None:
        """Remember bytes of the log, by which it is known again."""
        if offset + len(data) > self._seen[0]:
            self._seen = (offset + len(data), data[-TAIL_BYTES:])

    def look(self) -> None:
        """Go on after the job has opened its log by name and so emptied the file: what it prints then is not lost.

        All that is in the file then, and what is written there later by descriptors that do not append (those of
        `tee /dev/stderr`), is appended to the log, which goes on `APART_BYTES` behind: so the next time is noticed by
        the file's size, and nobody writes over the log. A line of the log tells it.

        Approximate are: what was printed before and not read yet is lost; what appends at this moment may come before
        what was printed first; output without appending is lost where it begins with zeros, where another agent takes
        over from this one, and where one descriptor writes more than `APART_BYTES`.

        Raises:
            OSError: the file cannot be read or made longer.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            with self._lock:
                if self.was_emptied(descriptor):
                    self._go_on_apart(descriptor)
                self._take_strays(descriptor)
                size = os.fstat(descriptor).st_size
                start = max(size - TAIL_BYTES, self.first + self.shift)
                self.saw(start - self.shift, os.pread(descriptor, size - start, start) if size > start else b"")
        finally:
            os.close(descriptor)

    def was_emptied(self, descriptor: int) -> bool:
        """Whether the file has not got any more what was seen. May be wrong where another thread looks just then.

        Args:
            descriptor: the file, to read.
        """
        end, tail = self._seen
        start = max(end - len(tail), self.first)
        known = tail[start - end + len(tail) :]
        if os.fstat(descriptor).st_size < max(end, self.acknowledged) + self.shift:
            return True
        return os.pread(descriptor, len(known), start + self.shift) != known

    def has_strays(self, descriptor: int) -> bool:
        """Whether more was written where the log is not any more."""
        if not self._taken < self._apart <= os.fstat(descriptor).st_size:
            return False  # or emptied again: what is appended then would be taken for more
        return os.pread(descriptor, 1, self._taken) > b"\0"

    def _go_on_apart(self, descriptor: int) -> None:
        size, end = os.fstat(descriptor).st_size, max(self._seen[0], self.acknowledged, self.first)
        log.warning("The job emptied %s, which goes on as of byte %d", self.path, end)
        was_overrun = self._taken == self._apart <= size
        self._taken, self._apart = self._apart if was_overrun else 0, size + APART_BYTES
        # In this order: an agent that ends in between leaves a file that is too short, which is noticed again.
        write_number(self._start, end, durable=True)
        write_number(self._shift, self._apart - end, durable=True)
        self.first, self.shift, self._seen = end, self._apart - end, (end, b"")
        os.ftruncate(descriptor, self._apart)
        self._append(descriptor, EMPTIED)

    def _take_strays(self, descriptor: int) -> None:
        while self.has_strays(descriptor):
            count_max = min(TAKE_BYTES, self._apart - self._taken)
            count = len(os.pread(descriptor, count_max, self._taken).rstrip(b"\0"))
            # Again: a page that was read just before it was written is there once a later one is.
            found = os.pread(descriptor, count, self._taken)
            if count == count_max:
                found = found[: found.rfind(b"\n") + 1] or found  # others append meanwhile: between lines
            self._append(descriptor, found)
            self._taken += len(found)

    def _append(self, descriptor: int, data: bytes) -> None:
        try:
            os.write(descriptor, data)
        except OSError as error:
            if not is_full(error):
                raise
            log.warning("The disk is full: %s of %s are lost", size_text(len(data)), self.path)


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
        return int(path.read_bytes() or b"0")
    except FileNotFoundError:
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
            log.warning("Logs take room until their jobs are forgotten: no holes in files of this disk (%s)", problem)
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
            for one in logs:
                self._keep_within(one, unsent_bytes_max)
        except OSError as error:
            log.warning("Logs cannot be kept within their bounds just now: %s", error)

    def _keep_within(self, one: JobLog, unsent_bytes_max: int) -> None:
        try:
            one.look()
            end = one.end_of_surplus(unsent_bytes_max)
            if end <= one.first:
                return
            if (lost_bytes := end - max(one.first, one.acknowledged)) > 0:
                log.warning("%s of %s are dropped: the server has not taken them", size_text(lost_bytes), one.path)
            one.give_up(end)
        except FileNotFoundError:
            return  # the job was forgotten meanwhile
