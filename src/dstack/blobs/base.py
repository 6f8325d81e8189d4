"""The interface of a store of blobs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from dstack.errors import InvalidRequestError
from dstack.protocol.files import hash_of, is_hash

SHARED = ""
"""The owner of the blobs that servers stored before blobs belonged to projects."""


class BlobStore(ABC):
    """Bytes under their own SHA-256, for each project apart. A requested blob counts as used now.

    Plain blocking code, which runs in threads. `owner` is the id of a project: a hash reveals nothing of another one.
    """

    @abstractmethod
    def missing(self, owner: str, hashes: Sequence[str]) -> list[str]:
        """Return the blobs that the owner lacks.

        Raises:
            InvalidRequestError: a text is not a hash.
        """

    @abstractmethod
    def get(self, owner: str, hash: str) -> bytes | None:
        """Return a blob of the owner, or None.

        Raises:
            InvalidRequestError: the text is not a hash.
        """

    def find(self, owners: Iterable[str], hash: str) -> bytes | None:
        """Return a blob that one of the owners has, or one from before blobs belonged to projects; None without one."""
        found = (self.get(owner, hash) for owner in (*owners, SHARED))
        return next((blob for blob in found if blob is not None), None)

    @abstractmethod
    def put(self, owner: str, hash: str, blob: bytes) -> None:
        """Store a blob for the owner.

        Raises:
            InvalidRequestError: these bytes do not have this hash.
        """

    @abstractmethod
    def prune(self, unused_since: float) -> int:
        """Delete the blobs that were not used since then (seconds since the epoch). Return their number."""


def check_hash(hash: str) -> str:
    """Return a hash unchanged.

    Raises:
        InvalidRequestError: the text is not a hash.
    """
    if not is_hash(hash):
        raise InvalidRequestError(f"`{hash[:80]}` is not the hash of a blob")
    return hash


def check_blob(hash: str, blob: bytes) -> None:
    """Raise `InvalidRequestError` unless these bytes have this hash."""
    if hash_of(blob) != hash:
        raise InvalidRequestError(f"The bytes sent as blob `{hash}` have another hash", hint="Send them again")
