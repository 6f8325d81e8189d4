"""Locks on files, held among processes. The system frees a lock when its holder ends, however it ends."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    PLACE = 1 << 30
    """The byte that is locked. It lies far behind a file's content, since no other process can read a locked byte."""
    RETRY_S = 0.05

    def _take(descriptor: int, *, is_shared: bool = False) -> bool:
        os.lseek(descriptor, PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # there are no shared ones
        except OSError:
            return False
        return True

    def _wait(descriptor: int) -> None:
        while not _take(descriptor):
            time.sleep(RETRY_S)

else:
    import fcntl

    def _take(descriptor: int, *, is_shared: bool = False) -> bool:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def take(path: Path) -> int | None:
    """Lock a file, which is made where it is missing, until its descriptor is closed or this process ends.

    Returns: the descriptor to keep, or None where another has the lock.
    """
    descriptor = _opened(path)
    try:
        if _take(descriptor):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; wait for it as long as another has it."""
    descriptor = _opened(path)
    try:
        _wait(descriptor)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock of a file; False where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor, is_shared=True)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
