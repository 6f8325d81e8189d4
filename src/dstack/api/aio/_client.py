"""The client for asyncio."""

import os
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

from dstack import api
from dstack.api.aio._threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from dstack.api.aio._collections import BackendCollection, EventCollection, RepoCollection, SecretCollection
    from dstack.api.aio._runs import RunCollection
    from dstack.protocol.views import AuditView, InstanceView, ProjectView


class Client:
    """A client of a dstack server, for one project and for asyncio. As a context manager it closes itself.

    Examples:
        >>> from dstack.api.aio import Client
        >>> client = Client.from_config(project_name="main", server_url="http://127.0.0.1:3000", user_token="secret")
        >>> client.project
        'main'
    """

    def __init__(self, client: "api.Client") -> None:
        self._client = client
        self._threads = Threads()

    @staticmethod
    def from_config(
        project_name: str | None = None,
        server_url: str | None = None,
        user_token: str | None = None,
        ssh_identity_file: str | os.PathLike[str] | None = None,
    ) -> "Client":
        """Return a client, as `dstack.api.Client.from_config`. Sends no request, and needs no `await`.

        Raises:
            ConfigurationError: a setting is missing, malformed or unknown.

        Examples:
            >>> from dstack.api.aio import Client
            >>> Client.from_config().project
            'main'
        """
        return Client(api.Client.from_config(project_name, server_url, user_token, ssh_identity_file))

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def project(self) -> str:
        """The project's name."""
        return self._client.project

    @cached_property
    def runs(self) -> "RunCollection":
        """The runs of the project."""
        from dstack.api.aio._runs import RunCollection

        return RunCollection(self._client.runs, self._threads)

    @cached_property
    def repos(self) -> "RepoCollection":
        """The repos of the project."""
        from dstack.api.aio._collections import RepoCollection

        return RepoCollection(self._client.repos, self._threads)

    @cached_property
    def backends(self) -> "BackendCollection":
        """The backends of the project."""
        from dstack.api.aio._collections import BackendCollection

        return BackendCollection(self._client.backends, self._threads)

    @cached_property
    def secrets(self) -> "SecretCollection":
        """The secrets of the project."""
        from dstack.api.aio._collections import SecretCollection

        return SecretCollection(self._client.secrets, self._threads)

    @cached_property
    def events(self) -> "EventCollection":
        """The events of the project."""
        from dstack.api.aio._collections import EventCollection

        return EventCollection(self._client.events, self._threads)

    async def projects(self) -> "list[ProjectView]":
        """Return the user's projects, as `dstack.api.Client.projects`."""
        return await self._threads.call(self._client.projects)

    async def instances(self) -> "list[InstanceView]":
        """Return the project's instances, as `dstack.api.Client.instances`."""
        return await self._threads.call(self._client.instances)

    async def audit(self) -> "AuditView":
        """Ask every backend for its machines, as `dstack.api.Client.audit`."""
        return await self._threads.call(self._client.audit)

    async def when_away(self, tell: "Callable[[str], None]") -> None:
        """Set the function that reports an unreachable server, as `dstack.api.Client.when_away`.

        Args:
            tell: called with one line of text at each try, from another thread.
        """
        self._client.when_away(tell)

    async def close(self) -> None:
        """Close the client's connections, as `dstack.api.Client.close`. Iterators over logs or events end."""
        await self._threads.wait(self._client.close)
        self._threads.close()
