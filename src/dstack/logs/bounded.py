"""Logs within bounds: where one becomes too long, or the disk too full, the oldest bytes are lost, and that is told."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from dstack.errors import StorageUnavailable
from dstack.kit.text import size_text
from dstack.logs.base import Disk, LogStore, Stream
from dstack.logs.gaps import Gap, lost_bytes, surplus_end

log = logging.getLogger(__name__)

STREAM_BYTES_MAX = 10 << 30
LOOKS_PER_BOUND = 16
LOOK_EVERY_BYTES_MAX = 8 << 20
SMALL_LOG_BYTES = 64 << 20
"""No log is made smaller than this because the disk is full."""
FREE_SHARE_MAX = 0.05
"""On a small disk, this part of it is free enough."""


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much is kept."""

    stream_bytes_max: int = STREAM_BYTES_MAX
    """Of each job's output."""
    free_bytes_min: int = 1 << 30
    """On the disk that logs are on."""

    @property
    def look_every_bytes(self) -> int:
        """After how many more bytes of a log it is looked whether it is too long."""
        return max(1, min(LOOK_EVERY_BYTES_MAX, self.stream_bytes_max // LOOKS_PER_BOUND))


BOUNDS = LogBounds()


@dataclass(frozen=True, slots=True)
class Loss:
    """Bytes of a log that are lost from now on."""

    of: Stream
    before_bytes: int
    """How much of the log had been lost before."""
    lost_bytes: int
    """How much of it is lost now, all in all."""
    why: str
    """For people, as the end of a sentence."""

    @property
    def is_news(self) -> bool:
        """Whether it is worth an event: the first loss, and then each time that it has about doubled."""
        return self.lost_bytes.bit_length() > self.before_bytes.bit_length()


@dataclass(frozen=True, slots=True)
class Stored:
    """What has come of storing bytes."""

    size: int
    """Where the log ends from now on."""
    losses: tuple[Loss, ...] = ()
    """Of this log or of others."""


class BoundedLogs:
    """Stores what comes, within bounds. Plain blocking code, run in threads."""

    def __init__(self, logs: LogStore, bounds: LogBounds) -> None:
        self._logs = logs
        self._bounds = bounds
        self._warned_of = ""

    def size(self, of: Stream) -> int:
        """Where a log ends."""
        return self._logs.size(*of)

    def append(self, of: Stream, offset: int, at: float, data: bytes) -> Stored:
        """Store bytes as `LogStore.append` does, and lose the oldest where it has become too much."""
        size = self._logs.append(*of, offset, at, data)
        every = self._bounds.look_every_bytes
        if offset // every == size // every:
            return Stored(size)
        return Stored(size, self._trimmed(of, size))

    def skip(self, of: Stream, gap: Gap, at: float) -> Stored:
        """Remember, as `LogStore.skip` does, what the host could not keep."""
        before = lost_bytes(self._logs.gaps(*of))
        size = self._logs.skip(*of, gap, at)
        after = lost_bytes(self._logs.gaps(*of))
        return Stored(size, (Loss(of, before, after, "its host could not keep it until the server took it"),))

    def _trimmed(self, of: Stream, size: int) -> tuple[Loss, ...]:
        """What was lost to keep the bounds. Where they cannot be kept, the bytes are stored all the same."""
        losses: list[Loss] = []
        try:
            losses.extend(self._trim(of, size))
            losses.extend(self._make_room())
        except (OSError, StorageUnavailable) as error:
            if str(error) != self._warned_of:
                log.warning("Logs cannot be kept within their bounds: %s", error)
                self._warned_of = str(error)
        return tuple(losses)

    def _trim(self, of: Stream, size: int) -> Iterator[Loss]:
        gaps = self._logs.gaps(*of)
        limit = self._bounds.stream_bytes_max
        if size - lost_bytes(gaps) > limit:
            end = surplus_end(size, gaps, limit - self._bounds.look_every_bytes)
            yield self._drop(of, end, f"no more than {size_text(limit)} of a log are kept")

    def _make_room(self) -> Iterator[Loss]:
        """While the disk is too full, the largest log loses its older half."""
        while _is_full(self._logs.disk(), self._bounds) and (largest := self._logs.largest()) is not None:
            of, kept_bytes = largest
            if kept_bytes <= SMALL_LOG_BYTES:
                break
            end = surplus_end(self._logs.size(*of), self._logs.gaps(*of), kept_bytes // 2)
            yield self._drop(of, end, "the server's disk is almost full")

    def _drop(self, of: Stream, end: int, why: str) -> Loss:
        before = lost_bytes(self._logs.gaps(*of))
        self._logs.drop(*of, end)
        return Loss(of, before, lost_bytes(self._logs.gaps(*of)), why)


def _is_full(disk: Disk | None, bounds: LogBounds) -> bool:
    return disk is not None and disk.free_bytes < min(bounds.free_bytes_min, FREE_SHARE_MAX * disk.total_bytes)
