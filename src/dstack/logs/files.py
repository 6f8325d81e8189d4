"""Logs in plain files: one for the bytes, and beside it a sparse index of when they came."""

import os
import shutil
import struct
from datetime import datetime
from pathlib import Path

from dstack.logs.base import LogStore

_MARK = struct.Struct("<Qd")
"""One line of the index: an offset, and the time (seconds since the epoch) of the bytes from there on."""

MARK_EVERY_S = 0.1
"""Bytes that come within this time share a mark; the start of a new one is exact."""


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
            end = index.tell() - index.tell() % _MARK.size
            if end:
                index.seek(end - _MARK.size)
                if at - _MARK.unpack(index.read(_MARK.size))[1] < MARK_EVERY_S:
                    return
            index.write(_MARK.pack(offset, at))

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
            marks = path.with_suffix(".index").read_bytes()
        except FileNotFoundError:
            return 0
        whole = marks[: len(marks) - len(marks) % _MARK.size]
        earliest = start.timestamp() - MARK_EVERY_S  # what shares a mark may be this much younger than the mark
        return next((offset for offset, at in _MARK.iter_unpack(whole) if at > earliest), self.size(job_id, stream))

    def delete(self, job_id: str) -> None:
        shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def _path(self, job_id: str, stream: str) -> Path:
        return self._folder / job_id / f"{stream}.log"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)
