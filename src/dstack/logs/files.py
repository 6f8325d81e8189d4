"""Logs in plain files: one for the bytes, beside it a sparse index of when they came, and the gaps where there are any.

Lost bytes are holes in the file. That they are lost is written down first, and a reader looks for that after it has
read: so nobody ever takes a hole for bytes of the log.
"""

import fcntl
import os
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from dstack.kit.folders import make_private
from dstack.kit.holes import punch
from dstack.logs.base import Disk, LogStore, Part, Stream
from dstack.logs.gaps import Gap, gaps_of, packed_gaps, passed, with_gap
from dstack.logs.marks import MARK_BYTES, Mark, is_new, marks_of, reaches

DROPPED = Mark(0, 0.0)
"""What a hole in an index reads as."""

BLOCK_BYTES = 512
"""What `st_blocks` counts."""


class LogFiles(LogStore):
    """A folder with a folder for each job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        path = self._path(job_id, stream)
        # Never "append": two servers that store the same bytes for a moment must store them at the same place.
        with open(path, "rb+", buffering=0, opener=_made) as file:
            size = file.seek(0, os.SEEK_END)
            if offset > size:
                raise ValueError(f"bytes {size} to {offset} of {job_id}/{stream} are missing")
            fresh = memoryview(data)[size - offset :]
            end = size + len(fresh)
            while fresh:
                fresh = fresh[file.write(fresh) :]
            if end > size:
                _mark(path, size, at)
            return end

    def skip(self, job_id: str, stream: str, gap: Gap, at: float) -> int:
        path = self._path(job_id, stream)
        with open(path, "rb+", buffering=0, opener=_made) as file:
            size = file.seek(0, os.SEEK_END)
            if gap.start > size:
                raise ValueError(f"bytes {size} to {gap.start} of {job_id}/{stream} are missing")
            if gap.end > size:
                _remember(path, file.fileno(), Gap(size, gap.end))
                # One byte and no truncation, which would cut off what another server has stored meanwhile.
                os.pwrite(file.fileno(), b"\0", gap.end - 1)
                _mark(path, size, at)
        return max(size, gap.end)

    def drop(self, job_id: str, stream: str, end: int) -> None:
        if end <= 0:
            return
        path = self._path(job_id, stream)
        with open(path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            punch(file.fileno(), size, size + 1)  # nothing is there: so this only asks whether it could be done
            _remember(path, file.fileno(), Gap(0, end))
            punch(file.fileno(), 0, end)
        with suppress(FileNotFoundError), open(path.with_suffix(".index"), "rb+") as index:
            count = index.seek(0, os.SEEK_END) // MARK_BYTES
            # The last mark before `end` stays: it says that nothing since the next one was dropped.
            later = bisect_left(range(count), True, key=lambda number: _mark_at(index.fileno(), number).offset >= end)
            punch(index.fileno(), 0, max(0, later - 1) * MARK_BYTES)

    def size(self, job_id: str, stream: str) -> int:
        try:
            return self._path(job_id, stream).stat().st_size
        except FileNotFoundError:
            return 0

    def gaps(self, job_id: str, stream: str) -> Sequence[Gap]:
        size = self.size(job_id, stream)
        return [gap for gap in _gaps(self._path(job_id, stream)) if gap.start < size]

    def read(self, job_id: str, stream: str, offset: int, limit: int) -> Part:
        path = self._path(job_id, stream)
        try:
            with open(path, "rb", buffering=0) as file:
                while True:
                    gaps = _gaps(path)
                    start = passed(gaps, offset)
                    end = min([start + limit, *(gap.start for gap in gaps if gap.start > start)])
                    data = os.pread(file.fileno(), end - start, start)
                    if passed(_gaps(path), start) == start:
                        return Part(min(start, max(offset, os.fstat(file.fileno()).st_size)), data)
        except FileNotFoundError:
            return Part(offset, b"")

    def offset_at(self, job_id: str, stream: str, start: datetime) -> int:
        path = self._path(job_id, stream)
        try:
            with open(path.with_suffix(".index"), "rb") as index:
                count = index.seek(0, os.SEEK_END) // MARK_BYTES
                first = bisect_left(
                    range(count), True, key=lambda number: reaches(_mark_at(index.fileno(), number), start)
                )
                if first == count:
                    return self.size(job_id, stream)
                if first > 0 and _mark_at(index.fileno(), first - 1) == DROPPED:
                    return 0  # nobody knows any more when that was printed
                return _mark_at(index.fileno(), first).offset
        except FileNotFoundError:
            return 0

    def delete(self, job_id: str) -> None:
        shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def disk(self) -> Disk:
        return Disk.of(next(one for one in (self._folder, *self._folder.parents) if one.exists()))

    def largest(self) -> tuple[Stream, int] | None:
        sizes = (((path.parent.name, path.stem), _disk_bytes(path)) for path in self._folder.glob("*/*.log"))
        return max(sizes, key=lambda one: one[1], default=None)

    def _path(self, job_id: str, stream: str) -> Path:
        return self._folder / job_id / f"{stream}.log"


def _made(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CREAT, 0o600)
    except FileNotFoundError:
        make_private(Path(path).parent)
        return os.open(path, flags | os.O_CREAT, 0o600)


def _mark(path: Path, offset: int, at: float) -> None:
    with open(path.with_suffix(".index"), "ab+", opener=_made) as index:
        end = index.tell() - index.tell() % MARK_BYTES
        index.seek(max(0, end - MARK_BYTES))
        if is_new(next(marks_of(index.read(MARK_BYTES)), None), at):
            index.write(Mark(offset, at).packed())


def _mark_at(descriptor: int, number: int) -> Mark:
    return next(marks_of(os.pread(descriptor, MARK_BYTES, number * MARK_BYTES)))


def _gaps(path: Path) -> list[Gap]:
    try:
        return gaps_of(path.with_suffix(".gaps").read_bytes())
    except FileNotFoundError:
        return []


def _remember(path: Path, log: int, gap: Gap) -> None:
    """Replaced as a whole: a reader sees all gaps, or all but the newest, whose bytes are still there.

    Args:
        log: the open log, locked until it is closed, so that no gap which comes meanwhile is forgotten.
    """
    fcntl.flock(log, fcntl.LOCK_EX)
    descriptor, draft = tempfile.mkstemp(prefix=".gaps-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(packed_gaps(with_gap(_gaps(path), gap)))
        Path(draft).rename(path.with_suffix(".gaps"))
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise


def _disk_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * BLOCK_BYTES
    except FileNotFoundError:
        return 0
