"""What every part of the client needs to know of the others."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from dstack.api._events import EventCollection, news
from dstack.api._repo_collection import RepoCollection
from dstack.api._transport import Transport, is_loopback
from dstack.protocol.views import EventView


@dataclass(frozen=True, slots=True)
class Context:
    """One project of one server, as one user sees it."""

    transport: Transport
    project: str
    events: EventCollection
    repos: RepoCollection
    ssh_identity_file: str | os.PathLike[str] | None

    def news(self, run_id: str, after: int) -> Iterator[EventView | None]:
        """A run's events after one of them, and None whenever something else about it is new."""
        return news(self.transport, self.project, run_id, after)

    @property
    def same_machine(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(self.transport.url)
