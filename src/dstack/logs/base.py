"""What keeps logs."""

from abc import ABC, abstractmethod
from datetime import datetime


class LogStore(ABC):
    """Append-only bytes per job and stream. Plain blocking code, run in threads."""

    @abstractmethod
    def append(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        """Store bytes that belong at `offset`; what is there already is skipped. Returns the size from now on.

        Args:
            at: when the bytes were printed at the latest, in seconds since the epoch.

        Raises:
            ValueError: `offset` lies beyond the end: bytes in between are missing.
        """

    @abstractmethod
    def size(self, job_id: str, stream: str) -> int:
        """How many bytes are stored."""

    @abstractmethod
    def read(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset` on; empty at the end."""

    @abstractmethod
    def offset_at(self, job_id: str, stream: str, start: datetime) -> int:
        """Where the bytes begin that were printed at `start` or later."""

    @abstractmethod
    def delete(self, job_id: str) -> None:
        """Forget all streams of a job."""
