"""The environment of a process: settings, and the search path of programs."""

import os
import sys
from collections.abc import Collection
from pathlib import Path


def positive_number(name: str, default: int) -> int:
    """The number in a variable; the default where it is not set.

    Raises:
        ValueError: it holds something else.
    """
    text = os.environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(f"{name} must be a positive number")
    return int(text)


def conceal(names: Collection[str]) -> None:
    """Take variables out of what others see of this process: `/proc/<pid>/environ`, and what a child has by default.

    `os.environ` goes on showing them to this program. If the system does not report the block of variables, only
    children lack them.
    """
    import ctypes  # clients have no use for it, and start often

    for name in names:
        os.unsetenv(name)
    try:
        with open("/proc/self/stat", "rb") as file:
            # The name, in parentheses, may hold anything; behind it begins the third field.
            start, end = map(int, file.read().rpartition(b")")[2].split()[_ENV_START:_ENV_END])
    except (OSError, ValueError):
        return
    place = start
    for variable in ctypes.string_at(start, end - start).split(b"\0") if start else ():
        if os.fsdecode(variable.partition(b"=")[0]) in names:
            ctypes.memset(place, 0, len(variable))
        place += len(variable) + 1


_ENV_START, _ENV_END = 50 - 3, 52 - 3
"""Where the fields `env_start` and `env_end` of `/proc/<pid>/stat` begin and end, counted from the third."""


def foreign_path(path: str) -> str:
    """Return a `PATH` without the programs of the Python environment that this process itself runs in.

    A Python of the whole system has no environment of its own: then nothing is left out. The system's default path
    takes the place of an empty one.
    """
    own = _own_programs()
    kept = path.split(os.pathsep)
    if own is not None:
        kept = [entry for entry in kept if not _is_at(entry or ".", own)]
    return os.pathsep.join(kept) if any(kept) else os.defpath


def _is_at(path: str, place: os.stat_result) -> bool:
    """Return whether a path leads to a place, by whatever name; finding its real name takes ten times longer."""
    try:
        return os.path.samestat(os.stat(path), place)
    except (OSError, ValueError):
        return False


def _own_programs() -> os.stat_result | None:
    prefix = Path(sys.prefix)
    is_virtual = sys.prefix != sys.base_prefix
    # Conda's base environment, which has `condabin`, is as good as the system's Python.
    is_condas = (prefix / "conda-meta").is_dir() and not (prefix / "condabin").is_dir()
    try:
        return os.stat(prefix / "bin") if is_virtual or is_condas else None
    except OSError:
        return None
