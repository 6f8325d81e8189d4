"""Blobs in a bucket."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from dstack.blobs.base import BlobStore, check_blob, check_hash
from dstack.bucket import Bucket
from dstack.kit.clock import Clock

USE_IS_NOTED_EVERY = timedelta(days=1)
"""How exactly it is known when a blob was last used: noting it down copies the object."""


class BlobBucket(BlobStore):
    """The objects below `blobs/` of a bucket; an object's time is that of its last use, a day more or less."""

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock

    def missing(self, owner: str, hashes: Sequence[str]) -> list[str]:
        are_here = self._bucket.map(partial(self._use, owner), hashes)
        return [hash for hash, is_here in zip(hashes, are_here, strict=True) if not is_here]

    def get(self, owner: str, hash: str) -> bytes | None:
        return self._bucket.get(_name(owner, hash)) if self._use(owner, hash) else None

    def put(self, owner: str, hash: str, blob: bytes) -> None:
        check_blob(hash, blob)
        self._bucket.put(_name(owner, hash), blob)

    def prune(self, unused_since: float) -> int:
        unused = [one.name for one in self._bucket.list("blobs/") if one.changed_at.timestamp() < unused_since]
        self._bucket.delete(unused)
        return len(unused)

    def _use(self, owner: str, hash: str) -> bool:
        used_at = self._bucket.changed_at(_name(owner, hash))
        if used_at is not None and used_at < self._clock.now() - USE_IS_NOTED_EVERY:
            self._bucket.touch(_name(owner, hash))
        return used_at is not None


def _name(owner: str, hash: str) -> str:
    return "/".join(filter(None, ("blobs", owner, check_hash(hash))))
