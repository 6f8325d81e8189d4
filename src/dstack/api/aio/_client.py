"""The asyncio form of `dstack.api._client`. Written by `make docs`; do not edit."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from dstack import api
from dstack.api.aio._threads import Threads

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType

    from dstack.api.aio._accounts import MemberCollection, TokenCollection, UserCollection
    from dstack.api.aio._backends import BackendCollection
    from dstack.api.aio._events import EventCollection
    from dstack.api.aio._repo_collection import RepoCollection
    from dstack.api.aio._runs import RunCollection
    from dstack.api.aio._secrets import SecretCollection
    from dstack.protocol.accounts import ProjectView
    from dstack.protocol.backends import AuditView
    from dstack.protocol.views import InstanceView


class Client:
    """A client of a dstack server, for one project. As an asynchronous context manager, it closes itself.

    Programs make one with `Client.from_config`.

    Examples:
        >>> from dstack.api.aio import Client
        >>> client = Client.from_config(project_name="main", server_url="http://127.0.0.1:3000", user_token="secret")
        >>> client.project
        'main'
    """

    def __init__(self, client: api.Client) -> None:
        self._client = client
        self._threads = Threads()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def project(self) -> str:
        """The project's name."""
        return self._client.project

    @staticmethod
    def from_config(
        project_name: str | None = None,
        server_url: str | None = None,
        user_token: str | None = None,
        ssh_identity_file: str | os.PathLike[str] | None = None,
    ) -> Client:
        """Return a client configured by arguments, environment variables or `~/.dstack/config.yml`, in that order.

        Sends no request. Without any configuration, the client uses this user's embedded server.
        The embedded server starts by itself at the first request.

        Args:
            project_name: the project; required with `server_url` and `user_token`. Variable: `DSTACK_PROJECT`.
            server_url: the server's URL, such as `http://127.0.0.1:3000`. Variable: `DSTACK_SERVER_URL`.
            user_token: the user's token. Variable: `DSTACK_TOKEN`.
            ssh_identity_file: an ed25519 private key for tunnels; by default the client's own key.

        Raises:
            ConfigurationError: a setting is missing, malformed or unknown.

        Examples:
            >>> from dstack.api.aio import Client
            >>> Client.from_config().project
            'main'
        """
        return Client(api.Client.from_config(project_name, server_url, user_token, ssh_identity_file))

    @cached_property
    def runs(self) -> RunCollection:
        """The runs of the project."""
        from dstack.api.aio._runs import RunCollection

        return RunCollection(self._client.runs, self._threads)

    @cached_property
    def repos(self) -> RepoCollection:
        """The repos of the project."""
        from dstack.api.aio._repo_collection import RepoCollection

        return RepoCollection(self._client.repos, self._threads)

    @cached_property
    def backends(self) -> BackendCollection:
        """The backends of the project."""
        from dstack.api.aio._backends import BackendCollection

        return BackendCollection(self._client.backends, self._threads)

    @cached_property
    def secrets(self) -> SecretCollection:
        """The secrets of the project."""
        from dstack.api.aio._secrets import SecretCollection

        return SecretCollection(self._client.secrets, self._threads)

    @cached_property
    def members(self) -> MemberCollection:
        """The members of the project."""
        from dstack.api.aio._accounts import MemberCollection

        return MemberCollection(self._client.members, self._threads)

    @cached_property
    def users(self) -> UserCollection:
        """The users of the server."""
        from dstack.api.aio._accounts import UserCollection

        return UserCollection(self._client.users, self._threads)

    @cached_property
    def tokens(self) -> TokenCollection:
        """The tokens of the caller, and for admins of the server those of every user."""
        from dstack.api.aio._accounts import TokenCollection

        return TokenCollection(self._client.tokens, self._threads)

    @cached_property
    def events(self) -> EventCollection:
        """The events of the project."""
        from dstack.api.aio._events import EventCollection

        return EventCollection(self._client.events, self._threads)

    async def audit(self) -> AuditView:
        """Ask every backend for its machines and compare them with the server's records.

        Takes as long as the slowest backend, at most half a minute.

        Returns:
            `machines`: each machine with its owner; `silent`: the backends that did not answer.

        Raises:
            ForbiddenError: the user is not an admin of the server.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print((await client.audit()).silent)
            >>> asyncio.run(main())
            []
        """
        return await self._threads.call(self._client.audit)

    async def projects(self) -> list[ProjectView]:
        """Return the projects that the user may use on this server, with the user's role in each.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print([project.name for project in await client.projects()])
            >>> asyncio.run(main())
            ['main']
        """
        return await self._threads.call(self._client.projects)

    async def create_project(self, name: str) -> ProjectView:
        """Create a project on the server. The caller becomes its admin.

        Args:
            name: 1 to 60 lower-case letters, digits, `.`, `_` and `-`.

        Raises:
            InvalidRequestError: the name is malformed.
            ResourceExistsError: there is a project of that name.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print((await client.create_project("vision")).role)
            ...         await client.delete_project("vision")
            >>> asyncio.run(main())
            admin
        """
        return await self._threads.call(self._client.create_project, name)

    async def delete_project(self, name: str) -> None:
        """Delete a project of the server with its runs, logs, secrets and members.

        Args:
            name: the project's name.

        Raises:
            ForbiddenError: the caller is not an admin of the project.
            InvalidRequestError: a run of the project has not finished.
            ResourceNotExistsError: there is no such project.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         project = await client.create_project("speech")
            ...         await client.delete_project("speech")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._client.delete_project, name)

    async def instances(self) -> list[InstanceView]:
        """Return the instances that the project uses or may use.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print(all(instance.backend == "local" for instance in await client.instances()))
            >>> asyncio.run(main())
            True
        """
        return await self._threads.call(self._client.instances)

    async def when_away(self, tell: Callable[[str], None]) -> None:
        """Set the function that reports that an upload or a submit waits for an unreachable server.

        Args:
            tell: called with one line of text at each try, from any thread.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         await client.when_away(print)
            >>> asyncio.run(main())
        """
        self._client.when_away(tell)

    async def close(self) -> None:
        """Close the client's connections. Iterators over logs or events end, also in other threads.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     await Client.from_config().close()
            >>> asyncio.run(main())
        """
        await self._threads.wait(self._client.close)
        self._threads.close()
