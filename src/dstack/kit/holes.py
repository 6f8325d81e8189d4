"""Holes in files: a part of a file can give back its room on the disk while everything else stays at its offset."""

import ctypes
import os
import tempfile
from pathlib import Path

KEEP_SIZE, PUNCH_HOLE = 0x1, 0x2
"""Of `linux/falloc.h`."""

_PROBE_BYTES = 1 << 16


def punch(descriptor: int, start: int, end: int) -> None:
    """Give back the room of the bytes from `start` up to `end`, which read as zeros from now on.

    Raises:
        OSError: this system or this file system cannot; nothing has changed.
    """
    if end <= start:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fallocate = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    except AttributeError as error:
        raise OSError(str(error)) from error
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(descriptor, KEEP_SIZE | PUNCH_HOLE, start, end - start) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def why_not(folder: Path) -> str | None:
    """Why files in this folder cannot have holes; None where they can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            punch(file.fileno(), 0, _PROBE_BYTES)
    except OSError as error:
        return str(error)
    return None
