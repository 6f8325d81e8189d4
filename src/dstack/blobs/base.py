"""The interface of a store of blobs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dstack.errors import InvalidRequestError
from dstack.protocol.files import hash_of, is_hash


class BlobStore(ABC):
    """Bytes under their own SHA-256. Plain blocking code, run in threads. A requested blob counts as used now."""

    @abstractmethod
    def missing(self, hashes: Sequence[str]) -> list[str]:
        """Those of the blobs that are not here.

        Raises:
            InvalidRequestError: a text is not a hash.
        """

    @abstractmethod
    def get(self, hash: str) -> bytes | None:
        """The blob, or None.

        Raises:
            InvalidRequestError: the text is not a hash.
        """

    @abstractmethod
    def put(self, hash: str, blob: bytes) -> None:
        """Keep a blob.

        Raises:
            InvalidRequestError: these bytes do not have this hash.
        """

    @abstractmethod
    def prune(self, unused_since: float) -> int:
        """Delete the blobs that were not used since then (seconds since the epoch). Return their number."""


def check_hash(hash: str) -> str:
    """The hash, if it is one.

    Raises:
        InvalidRequestError: it is not.
    """
    if not is_hash(hash):
        raise InvalidRequestError(f"`{hash[:80]}` is not the hash of a blob")
    return hash


def check_blob(hash: str, blob: bytes) -> None:
    """Raises `InvalidRequestError` where these bytes do not have this hash."""
    if hash_of(blob) != hash:
        raise InvalidRequestError(f"The bytes sent as blob `{hash}` have another hash", hint="Send them again")
