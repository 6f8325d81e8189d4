"""Jobs that are forgotten: those that must not start any more, since a stop or a forget came before the start, and the
folders of the others.
"""

import asyncio
from pathlib import Path

from dstack.agent.files import remove_tree
from dstack.kit.tasks import TaskGroup

KEPT_MAX = 10_000
"""More than a server could have in flight; the oldest are dropped."""


class Forgotten:
    """A set of job ids that outlives the agent: an empty file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        by_age = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        self._ids = dict.fromkeys(path.name for path in by_age)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._ids

    def add(self, job_id: str) -> None:
        """Remember an id."""
        (self._folder / job_id).touch(mode=0o600)
        self._ids[job_id] = None
        while len(self._ids) > KEPT_MAX:
            oldest = next(iter(self._ids))
            del self._ids[oldest]
            (self._folder / oldest).unlink(missing_ok=True)


class Trash:
    """Folders of forgotten jobs on their way out, in the background: their files may be many."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._removals = TaskGroup()

    def empty(self) -> None:
        """Remove what an earlier agent left here."""
        for path in self._folder.iterdir():
            self._remove(path)

    def take(self, path: Path) -> None:
        """Have a folder be gone from its place at once, and from the disk later."""
        self._remove(path.rename(self._folder / path.name))

    def remove(self, path: Path) -> None:
        """Remove a small folder now."""
        remove_tree(path)

    async def close(self) -> None:
        """Wait until all has been removed. The next agent removes what is left after a crash."""
        await self._removals.finish()

    def _remove(self, path: Path) -> None:
        self._removals.start(f"removes {path}", asyncio.to_thread(remove_tree, path))
