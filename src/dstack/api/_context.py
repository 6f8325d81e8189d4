"""The parts of a client that its other parts use."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from dstack.api._events import EventCollection, news
from dstack.api._repo_collection import RepoCollection
from dstack.api._servers import is_loopback
from dstack.api._transport import Transport
from dstack.kit.environ import foreign_path
from dstack.protocol.views import EventView, RunView


@dataclass(frozen=True, slots=True)
class Context:
    """The connection, project and collections of one client."""

    transport: Transport
    project: str
    events: EventCollection
    repos: RepoCollection
    ssh_identity_file: str | os.PathLike[str] | None

    def news(self, run_id: str, after: int) -> Iterator[EventView | RunView | None]:
        """Yield a run's events after one of them, and the run itself after each change. An older server sends None."""
        return news(self.transport, self.project, run_id, after, shows_run=True)

    @property
    def same_machine(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(self.transport.url)

    def path(self) -> str | None:
        """Return this process's `PATH` for its jobs on this machine; None if the server is not this user's own.

        The `PATH` is of no use on another machine or for another user.
        """
        from dstack.protocol.requests import PATH_CHARACTERS_MAX  # a client that only reads needs none of it

        path = os.environ.get("PATH")
        if path is None or not self.transport.is_own():
            return None
        readable = (entry for entry in foreign_path(path).split(os.pathsep) if entry.isprintable())
        found = os.pathsep.join(readable)
        return found if len(found) <= PATH_CHARACTERS_MAX else None
