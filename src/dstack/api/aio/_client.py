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
    """Speaks to a dstack server for one project, for asyncio.

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
        """As `dstack.api.Client.from_config`; asks no server, and so needs no `await`.

        Raises:
            ConfigurationError: something is missing, damaged or unknown.

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
        """Operations with runs."""
        from dstack.api.aio._runs import RunCollection

        return RunCollection(self._client.runs, self._threads)

    @cached_property
    def repos(self) -> "RepoCollection":
        """Operations with repos."""
        from dstack.api.aio._collections import RepoCollection

        return RepoCollection(self._client.repos, self._threads)

    @cached_property
    def backends(self) -> "BackendCollection":
        """Operations with backends."""
        from dstack.api.aio._collections import BackendCollection

        return BackendCollection(self._client.backends, self._threads)

    @cached_property
    def secrets(self) -> "SecretCollection":
        """Operations with secrets."""
        from dstack.api.aio._collections import SecretCollection

        return SecretCollection(self._client.secrets, self._threads)

    @cached_property
    def events(self) -> "EventCollection":
        """What has happened, and what happens."""
        from dstack.api.aio._collections import EventCollection

        return EventCollection(self._client.events, self._threads)

    async def projects(self) -> "list[ProjectView]":
        """As `dstack.api.Client.projects`."""
        return await self._threads.call(self._client.projects)

    async def instances(self) -> "list[InstanceView]":
        """As `dstack.api.Client.instances`."""
        return await self._threads.call(self._client.instances)

    async def audit(self) -> "AuditView":
        """As `dstack.api.Client.audit`."""
        return await self._threads.call(self._client.audit)

    async def when_away(self, tell: "Callable[[str], None]") -> None:
        """As `dstack.api.Client.when_away`; `tell` is called from another thread."""
        self._client.when_away(tell)

    async def close(self) -> None:
        """As `dstack.api.Client.close`."""
        await self._threads.wait(self._client.close)
        self._threads.close()
