"""A full disk: what must be written then has its room set aside, and what went wrong is said in plain words."""

import errno
import os
from contextlib import suppress
from pathlib import Path

ROOM_BYTES = 4096


def set_aside(path: Path) -> None:
    """Have room on the disk for a small file that does not exist yet."""
    descriptor = os.open(_room(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(b" " * ROOM_BYTES)


def write_into_room(path: Path, text: bytes) -> bool:
    """Make the file of what was set aside for it, with blanks behind the text; False where there is no such room."""
    if len(text) > ROOM_BYTES:
        return False
    with suppress(FileNotFoundError), open(_room(path), "rb+") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        _room(path).rename(path)
        return True
    return False


def is_full(error: BaseException) -> bool:
    """Whether it happened because the disk is full, or all of it that one may use."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def in_words(error: BaseException) -> str:
    """What went wrong, for people."""
    if is_full(error):
        return "The disk of the machine is full, where jobs have their files; make room there, or ask for more `disk`"
    return str(error)


def _room(path: Path) -> Path:
    return path.with_name(f".{path.name}.room")
