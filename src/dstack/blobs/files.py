"""Blobs in plain files, two folders deep so that no folder grows too long."""

import os
import tempfile
from pathlib import Path

from dstack.errors import InvalidRequestError
from dstack.protocol.files import hash_of


class BlobFiles:
    """A folder of blobs. Plain blocking code, run in threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, hash: str) -> bool:
        """Whether the blob is here; it then counts as just used."""
        try:
            os.utime(self._path(hash))
        except FileNotFoundError:
            return False
        return True

    def get(self, hash: str) -> bytes | None:
        """The blob, or None; it then counts as just used."""
        try:
            os.utime(self._path(hash))
            return self._path(hash).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, hash: str, blob: bytes) -> None:
        """Keep a blob.

        Raises:
            InvalidRequestError: these bytes do not have this hash.
        """
        if hash_of(blob) != hash:
            raise InvalidRequestError(f"The bytes sent as blob `{hash}` have another hash", hint="Send them again")
        path = self._path(hash)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(blob)
        os.replace(file.name, path)

    def prune(self, unused_since: float) -> int:
        """Forget the blobs that nobody has asked for since then (seconds since the epoch). Returns how many."""
        pruned = 0
        for path in self._folder.glob("??/*"):
            if path.stat().st_mtime < unused_since:
                path.unlink()
                pruned += 1
        return pruned

    def _path(self, hash: str) -> Path:
        if len(hash) != 64 or not set(hash) <= set("0123456789abcdef"):
            raise InvalidRequestError(f"`{hash[:80]}` is not the hash of a blob")
        return self._folder / hash[:2] / hash
