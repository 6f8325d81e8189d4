"""The answer to the question for which replica, and in which form, a request to a model is meant."""

from typing import NamedTuple, Protocol

from dstack.proxy.balance import ReplicaState
from dstack.proxy.framing import Headers
from dstack.proxy.routes import Route


class Rewriting(Protocol):
    """Turns an answer of a replica into another one, part by part."""

    is_whole: bool
    """Whether the head is asked for behind the body, since the status depends on it."""

    def head(self, status: int, headers: Headers) -> tuple[int, bytes]:
        """Return the status and the media type of the answer, given those of the replica."""

    def body(self, data: bytes) -> bytes:
        """Return the bytes that a part of the replica's answer becomes; empty for none yet."""

    def end(self) -> bytes:
        """Return the bytes at the end."""


class Choice(NamedTuple):
    """The service that a request goes to, and its form there."""

    route: Route
    target: bytes
    """The path with the query, as the replica gets it."""
    body: bytes | None = None
    """The body for the replica; None for the client's own."""
    replica: ReplicaState | None = None
    """The replica that is preferred: others are tried where it cannot be reached."""
    rewriting: Rewriting | None = None
    others: "tuple[Choice, ...]" = ()
    """Other services, for a request that no replica of this one can take."""
