"""Blobs in plain files, in folders by project and by the first digits, so that no folder grows too long."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dstack.blobs.base import BlobStore, check_blob, check_hash
from dstack.errors import StorageUnavailable
from dstack.kit.folders import make_private


class BlobFiles(BlobStore):
    """A folder of blobs; a file's time is that of its last use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, owner: str, hashes: Sequence[str]) -> list[str]:
        with self._usable():
            return [hash for hash in hashes if not self._use(owner, hash)]

    def get(self, owner: str, hash: str) -> bytes | None:
        with self._usable():
            try:
                return self._path(owner, hash).read_bytes() if self._use(owner, hash) else None
            except FileNotFoundError:
                return None

    def put(self, owner: str, hash: str, blob: bytes) -> None:
        check_blob(hash, blob)
        path = self._path(owner, hash)
        with self._usable():
            make_private(path.parent)
            descriptor, draft = tempfile.mkstemp(dir=path.parent)
            try:
                with open(descriptor, "wb") as file:
                    file.write(blob)
                os.rename(draft, path)
            except OSError:
                Path(draft).unlink(missing_ok=True)
                raise

    def prune(self, unused_since: float) -> int:
        pruned = 0
        for path in (*self._folder.glob("??/*"), *self._folder.glob("*/??/*")):
            if path.is_file() and path.stat().st_mtime < unused_since:
                path.unlink()
                pruned += 1
        return pruned

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Convert errors of the disk to `StorageUnavailable`."""
        try:
            yield
        except OSError as error:
            raise StorageUnavailable(
                f"Uploads cannot be stored in `{self._folder}`: {error.strerror}",
                hint="Free space in that folder on the server's machine; check `df -h` and `df -i`",
            ) from error

    def _use(self, owner: str, hash: str) -> bool:
        try:
            os.utime(self._path(owner, hash))
        except FileNotFoundError:
            return False
        return True

    def _path(self, owner: str, hash: str) -> Path:
        return self._folder / owner / check_hash(hash)[:2] / hash
