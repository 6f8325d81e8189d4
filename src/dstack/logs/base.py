"""What keeps logs."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

from dstack.logs.gaps import Gap

Stream: TypeAlias = tuple[str, str]
"""A job's id, and the name of one of its streams."""


class Part(NamedTuple):
    """The first bytes that there are at an offset or after it."""

    offset: int
    """Where they are. What lies between the offset that was asked for and this one is lost."""
    data: bytes
    """Empty at the end of the log."""


class Disk(NamedTuple):
    """The disk that logs are on."""

    free_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, folder: Path) -> "Disk":
        """The one with this folder."""
        usage = shutil.disk_usage(folder)
        return cls(usage.free, usage.total)


class LogStore(ABC):
    """Append-only bytes per job and stream, some of which may be lost (`logs.gaps`). Plain blocking code, run in
    threads."""

    @abstractmethod
    def append(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        """Store bytes that belong at `offset`; what is there already is skipped. Returns the size from now on.

        Args:
            at: when the bytes were printed at the latest, in seconds since the epoch.

        Raises:
            ValueError: `offset` lies beyond the end: bytes in between are missing, and nobody said that they are lost.
        """

    @abstractmethod
    def skip(self, job_id: str, stream: str, gap: Gap, at: float) -> int:
        """Remember that bytes will never come, and go on behind them; what is there stays. Returns the size then.

        Args:
            at: when the lost bytes were printed at the latest.

        Raises:
            ValueError: the gap begins beyond the end.
        """

    @abstractmethod
    def drop(self, job_id: str, stream: str, end: int) -> None:
        """Lose all bytes before `end`, which must lie within the log, and give back their room."""

    @abstractmethod
    def size(self, job_id: str, stream: str) -> int:
        """Where the log ends: how many bytes are stored or lost."""

    @abstractmethod
    def gaps(self, job_id: str, stream: str) -> Sequence[Gap]:
        """What of it is lost: in order; they do not touch."""

    @abstractmethod
    def read(self, job_id: str, stream: str, offset: int, limit: int) -> Part:
        """Up to `limit` bytes from `offset` on, or from where they go on after a gap; never across one."""

    @abstractmethod
    def offset_at(self, job_id: str, stream: str, start: datetime) -> int:
        """Where the bytes begin that were printed at `start` or later; inside or before a gap where that is not known
        exactly because of it."""

    @abstractmethod
    def delete(self, job_id: str) -> None:
        """Forget all streams of a job."""

    def disk(self) -> Disk | None:
        """The disk that may become full; None where that is somebody else's affair."""
        return None

    def largest(self) -> tuple[Stream, int] | None:
        """The stream that takes most of the disk, and how many bytes; None where there is none, or no disk."""
        return None
