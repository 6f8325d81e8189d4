"""Blobs in plain files, two folders deep so that no folder grows too long."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dstack.blobs.base import BlobStore, check_blob, check_hash
from dstack.kit.folders import make_private


class BlobFiles(BlobStore):
    """A folder of blobs; a file's time is that of its last use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, hashes: Sequence[str]) -> list[str]:
        return [hash for hash in hashes if not self._use(hash)]

    def get(self, hash: str) -> bytes | None:
        try:
            return self._path(hash).read_bytes() if self._use(hash) else None
        except FileNotFoundError:
            return None

    def put(self, hash: str, blob: bytes) -> None:
        check_blob(hash, blob)
        path = self._path(hash)
        make_private(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(blob)
        os.replace(file.name, path)

    def prune(self, unused_since: float) -> int:
        pruned = 0
        for path in self._folder.glob("??/*"):
            if path.stat().st_mtime < unused_since:
                path.unlink()
                pruned += 1
        return pruned

    def _use(self, hash: str) -> bool:
        try:
            os.utime(self._path(hash))
        except FileNotFoundError:
            return False
        return True

    def _path(self, hash: str) -> Path:
        return self._folder / check_hash(hash)[:2] / hash
