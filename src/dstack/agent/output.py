"""What a job prints, on its way through a named pipe to the end of the job's log.

A program may open its standard output anew by its name (`/dev/stderr`): of a file that would empty the log, of a pipe
it is one more end. One process at a time moves the bytes: the one that holds the job's lock. `os.splice` moves them
inside the kernel, so that a process which is killed at any moment has moved each byte wholly or not at all. Other
processes hold the pipe open, so that it outlives whoever is killed.
"""

import errno
import fcntl
import logging
import os
import select
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dstack.agent.full_disk import is_full
from dstack.agent.paths import JobFolder
from dstack.kit.text import size_text

log = logging.getLogger(__name__)

PIPE_BYTES = 1 << 18
"""More is hardly faster, and a user who is not root has 64 MiB for all pipes."""
MOVES_MAX = 16
"""So much of the pipe is moved before it is looked whether something else is to be done."""
GATHER_S = 0.002
"""A pipe that was nearly empty is left alone for so long: few large moves cost a fraction of many small ones."""
RETRY_S = 0.5
"""How often it is tried to write to a disk that takes no more."""
LOOK_S = 0.02
EMPTY_MAX_S = 60.0
"""How long the end of a job waits for a disk that takes no more."""


def make_pipe(folder: JobFolder) -> None:
    """Make the pipe of a job, unless it is there. Whoever finds it may write: its folder is this user's alone."""
    with suppress(FileExistsError):
        os.mkfifo(folder.pipe)
    folder.pipe.chmod(0o666)


def print_into_log(folder: JobFolder) -> None:
    """Have a job print straight into its log: its container runs on another kernel, which shares files and no pipes."""
    folder.pipe.unlink(missing_ok=True)
    folder.log("job").chmod(0o666)


@contextmanager
def holding_pipe(folder: JobFolder) -> Iterator[None]:
    """Keep what is in a job's pipe from being lost with the last process that has it open.

    Does nothing where the job has no pipe.
    """
    descriptor = None
    try:
        descriptor = open_pipe(folder)
    except FileNotFoundError:
        pass
    except OSError as error:  # the job goes on all the same
        log.warning("The pipe of job %s is not held: %s", folder.job_id, error)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def waiting_bytes(folder: JobFolder) -> int:
    """How much of what a job has printed is not in its log yet; 0 where it has no pipe."""
    try:
        descriptor = open_pipe(folder)
    except FileNotFoundError:
        return 0
    try:
        return _waiting(descriptor)
    finally:
        os.close(descriptor)


def await_emptied(folder: JobFolder, within_s: float) -> None:
    """Wait until another process has moved all that a job has printed, but not for longer than some seconds. Blocks."""
    until_s = time.monotonic() + within_s
    while waiting_bytes(folder) and time.monotonic() < until_s:
        select.select([], [], [], LOOK_S)


def empty_pipe(folder: JobFolder) -> int:
    """Move what is left in a job's pipe. Only for the process that holds the job's lock. Blocks.

    Returns: how many bytes are lost, since the disk took no more for a minute.
    """
    try:
        output = Output(folder)
    except FileNotFoundError:
        return 0
    try:
        return output.empty()
    finally:
        output.close()


def lost_in_words(lost_bytes: int) -> str:
    """What to say at the end of a job whose last bytes the disk did not take; nothing where there are none."""
    if not lost_bytes:
        return ""
    return f"the last {size_text(lost_bytes)} of its output are lost: the disk of the machine takes no more"


class Output:
    """The output of one job, for the process that holds the job's lock.

    Raises:
        FileNotFoundError: the job has no pipe.
    """

    def __init__(self, folder: JobFolder) -> None:
        self.pipe = open_pipe(folder)
        """To be read from, and never waited for without a time-out: this process could write, too."""
        with suppress(OSError):  # too many large pipes of this user
            fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._log = os.open(folder.log("job"), os.O_WRONLY | os.O_CLOEXEC)
        os.lseek(self._log, 0, os.SEEK_END)
        self._rests_until_s = 0.0
        self._job_id = folder.job_id
        self._waits_for_disk = False

    def wait(self, signals: int, timeout_s: float) -> bool:
        """Move what is printed until a descriptor of signals is readable. Returns whether it is; looks at least once.

        Args:
            timeout_s: how long to wait at most.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            now_s = time.monotonic()
            ready = self._poll(signals, max(0.0, until_s - now_s), self._rests_until_s - now_s)
            if signals in ready:
                return True
            if self.pipe in ready:
                self._rests_until_s = self._move() + time.monotonic()
            if time.monotonic() >= until_s:
                return False

    def empty(self) -> int:
        """Move all that is there. Returns how many bytes the disk did not take within a minute, which are lost."""
        until_s = time.monotonic() + EMPTY_MAX_S
        while left := _waiting(self.pipe):
            if self._move() >= RETRY_S:
                if time.monotonic() >= until_s:
                    return left
                select.select([], [], [], RETRY_S)
        return 0

    def close(self) -> None:
        """Let go of pipe and log."""
        os.close(self.pipe)
        os.close(self._log)

    def _poll(self, signals: int, left_s: float, rest_s: float) -> set[int]:
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        if rest_s <= 0:
            poll.register(self.pipe, select.POLLIN)
        else:
            left_s = min(left_s, rest_s)
        return {descriptor for descriptor, _ in poll.poll(left_s * 1000)}

    def _move(self) -> float:
        """Move some of what is there. Returns for how many seconds to leave the pipe alone."""
        rest_s = 0.0
        try:
            for _ in range(MOVES_MAX):
                if os.splice(self.pipe, self._log, PIPE_BYTES, flags=os.SPLICE_F_NONBLOCK) < PIPE_BYTES // 4:
                    rest_s = GATHER_S
                    break
        except BlockingIOError:
            rest_s = GATHER_S
        except OSError as error:
            self._tell(error)
            return RETRY_S
        self._waits_for_disk = False
        return rest_s

    def _tell(self, error: OSError) -> None:
        if not self._waits_for_disk:
            reason = "the disk is full" if is_full(error) else os.strerror(error.errno or errno.EIO)
            log.warning("The output of job %s waits: %s", self._job_id, reason)
        self._waits_for_disk = True


def open_pipe(folder: JobFolder) -> int:
    """Open the pipe for reading and writing: that waits for nobody, and the pipe never seems to have no other end."""
    return os.open(folder.pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _waiting(descriptor: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
    return count
