"""What every part of the client needs to know of the others."""

import os
from dataclasses import dataclass

from dstack.api._events import EventCollection
from dstack.api._repo_collection import RepoCollection
from dstack.api._transport import Transport, is_loopback


@dataclass(frozen=True, slots=True)
class Context:
    """One project of one server, as one user sees it."""

    transport: Transport
    project: str
    events: EventCollection
    repos: RepoCollection
    ssh_identity_file: str | os.PathLike[str] | None

    @property
    def same_machine(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(self.transport.url)
