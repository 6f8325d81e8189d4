"""A full disk: what must be written then has its room set aside, and what went wrong is said in plain words."""

import errno
import os
from contextlib import suppress
from pathlib import Path

ROOM_BYTES = 4096
_OF_HOST = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.EROFS)


def set_aside(path: Path, *, again: bool = False) -> None:
    """Have room on the disk for a small file that does not exist yet; `again`: for writing it as often as needed."""
    for room in _rooms(path)[: 2 if again else 1]:
        descriptor = os.open(room, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(b" " * ROOM_BYTES)


def write_into_room(path: Path, text: bytes) -> bool:
    """Make the file of what was set aside for it, with blanks behind the text; False where there is no such room.

    Whoever reads it meanwhile finds a whole one. What it was before is room for another time.
    """
    room, next_room = _rooms(path)
    if len(text) > ROOM_BYTES or not room.exists():
        return False
    with open(room, "rb+") as file:
        file.write(text.ljust(ROOM_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(OSError):  # there is a next room, or no file yet, or the file system knows no second names
        os.link(path, next_room)
    room.rename(path)
    with suppress(FileNotFoundError):
        next_room.rename(room)
    return True


def is_full(error: BaseException) -> bool:
    """Whether it happened because the disk is full, or all of it that one may use."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_of_host(error: BaseException) -> bool:
    """Whether it happened because the host has no more of something that all its jobs share, but for its disk."""
    return isinstance(error, OSError) and error.errno in _OF_HOST


def in_words(error: BaseException) -> str:
    """What went wrong, for people."""
    if is_full(error):
        return "The machine's disk for job files is full; free space there, or request more `disk`"
    return str(error)


def _rooms(path: Path) -> tuple[Path, Path]:
    """Those of the next time and of the time after that."""
    return path.with_name(f".{path.name}.room"), path.with_name(f".{path.name}.next-room")
