"""Logs in plain files: one for the bytes, and beside it a sparse index of when they came."""

import os
import shutil
from datetime import datetime
from pathlib import Path

from dstack.logs.base import LogStore
from dstack.logs.marks import MARK_BYTES, Mark, is_new, marks_of, reaches


class LogFiles(LogStore):
    """A folder with a folder for each job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        path = self._path(job_id, stream)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never "append": two servers that store the same bytes for a moment must store them at the same place.
        with open(path, "rb+", opener=_private) as file:
            size = file.seek(0, os.SEEK_END)
            if offset > size:
                raise ValueError(f"bytes {size} to {offset} of {job_id}/{stream} are missing")
            fresh = data[size - offset :]
            if fresh:
                file.write(fresh)
                self._mark(path, size, at)
            return size + len(fresh)

    def _mark(self, path: Path, offset: int, at: float) -> None:
        with open(path.with_suffix(".index"), "ab+", opener=_private) as index:
            end = index.tell() - index.tell() % MARK_BYTES
            index.seek(max(0, end - MARK_BYTES))
            if is_new(next(marks_of(index.read(MARK_BYTES)), None), at):
                index.write(Mark(offset, at).packed())

    def size(self, job_id: str, stream: str) -> int:
        try:
            return self._path(job_id, stream).stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        try:
            with open(self._path(job_id, stream), "rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def offset_at(self, job_id: str, stream: str, start: datetime) -> int:
        path = self._path(job_id, stream)
        try:
            marks = marks_of(path.with_suffix(".index").read_bytes())
        except FileNotFoundError:
            return 0
        return next((mark.offset for mark in marks if reaches(mark, start)), self.size(job_id, stream))

    def delete(self, job_id: str) -> None:
        shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def _path(self, job_id: str, stream: str) -> Path:
        return self._folder / job_id / f"{stream}.log"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)
