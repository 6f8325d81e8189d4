"""The ids of jobs that must not start any more, because a stop or a forget has come before the start."""

from pathlib import Path

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
