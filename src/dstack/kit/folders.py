"""Folders that only their owner may look into."""

import stat
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from dstack.kit import systems

PRIVATE = 0o700


def make_private(path: Path, within: Path | None = None) -> None:
    """Make a folder, and those above it that are missing, for this user alone, under any umask.

    One that exists and belongs to this user is closed to others; another user's is left as it is.

    Args:
        within: a folder above the path that is closed in the same way, with all between.

    Raises:
        OSError: it cannot be made.
    """
    chain = [path, *path.parents]
    missing = list(takewhile(lambda folder: not folder.exists(), chain))
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process made it meanwhile
            folder.mkdir(PRIVATE)
        _close(folder)
    closed = chain[: chain.index(within) + 1] if within in chain else chain[:1]
    for folder in closed:
        if folder not in missing:
            _close(folder)


def _close(folder: Path) -> None:
    status = folder.stat()
    is_ours = stat.S_ISDIR(status.st_mode) and systems.is_own(status)
    if is_ours and stat.S_IMODE(status.st_mode) != PRIVATE:
        folder.chmod(PRIVATE)
