"""The asyncio form of `dstack.api._backends`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dstack import api
    from dstack.api._backends import Backend
    from dstack.api.aio._threads import Threads
    from dstack.protocol.backends import BackendCheckView, BackendRemovalView


class BackendCollection:
    """The backends of one project. Admins of the server may manage those for all projects too, by `for_all`.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         print([backend.name for backend in await client.backends.list()])
        >>> asyncio.run(main())
        ['local']
    """

    def __init__(self, backends: api.BackendCollection, threads: Threads) -> None:
        self._backends = backends
        self._threads = threads

    async def list(self, for_all: bool = False) -> list[Backend]:
        """Return all backends that the project may use.

        Args:
            for_all: return the backends of all projects instead.

        Raises:
            ForbiddenError: `for_all`, and the caller is not an admin of the server.
            ServerUnreachableError: no server answers.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print([(one.name, one.is_silent, one.fault) for one in await client.backends.list()])
            >>> asyncio.run(main())
            [('local', False, None)]
        """
        return await self._threads.call(self._backends.list, for_all)

    async def add(self, config: Mapping[str, Any], name: str | None = None, for_all: bool = False) -> Backend:
        """Check a backend with its cloud, and add it; or change the one of that name, whose machines go on.

        Args:
            config: the configuration with its `type` and credentials, as in the server's `config.yml`.
            name: the backend's name; the `name` in `config`, or else its type, by default.
            for_all: add it for all projects instead of this one.

        Raises:
            BackendInvalidCredentialsError: the cloud does not accept the credentials.
            ConfigurationError: `config` is not a mapping.
            ForbiddenError: the caller is not an admin of the project; or, with `for_all`, of the server.
            InvalidRequestError: the configuration has mistakes, or this version has no driver for its type.
            ResourceExistsError: another backend that the project uses has the name.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, InvalidRequestError
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         problem = ""
            ...         try:
            ...             await client.backends.add({"type": "cloud9"})
            ...         except InvalidRequestError as error:
            ...             problem = error.message
            ...         print(problem.partition(";")[0])
            >>> asyncio.run(main())
            `type`: there is no backend called `cloud9`
        """
        return await self._threads.call(self._backends.add, config, name, for_all)

    async def check(self, name: str, for_all: bool = False) -> BackendCheckView:
        """Ask a backend now whether it can be used as configured.

        Args:
            name: the backend's name.
            for_all: the backend is one for all projects, and the caller an admin of the server.

        Returns:
            the `error` and the wrong `field`, which are None for a usable backend. `calls` has the number of calls
            of each kind, of those that failed, and their durations.

        Raises:
            ForbiddenError: the caller is not an admin of the project; or, with `for_all`, of the server.
            ResourceNotExistsError: there is no such backend.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print((await client.backends.check("local")).error is None)
            >>> asyncio.run(main())
            True
        """
        return await self._threads.call(self._backends.check, name, for_all)

    async def delete(
        self, name: str, drain: bool = False, for_all: bool = False, force: bool = False
    ) -> BackendRemovalView:
        """Delete a backend: at once if no machine can be left there, or else as soon as that is certain.

        Args:
            name: the backend's name.
            drain: delete it though it has machines. They take no more jobs, and end once their jobs have ended.
            for_all: the backend is one for all projects, and the caller an admin of the server.
            force: delete it now, since its cloud never answers again. Its machines are given up: they may exist, and
                cost money. Without machines, it is deleted as usual.

        Returns:
            whether it is `removed` already, the `machines` that end first, and those that were `given_up`.

        Raises:
            ForbiddenError: the caller is not an admin of the project; or, with `for_all`, of the server.
            InvalidRequestError: it has machines, which the message lists, and neither `drain` nor `force` is set. Or
                `force` is set, and jobs run there whose machines answer.
            ResourceNotExistsError: there is no such backend.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, InvalidRequestError
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         problem = ""
            ...         try:
            ...             await client.backends.delete("local")
            ...         except InvalidRequestError as error:
            ...             problem = error.message
            ...         print(problem)
            >>> asyncio.run(main())
            The backend `local` is there by the server's settings
        """
        return await self._threads.call(self._backends.delete, name, drain, for_all, force)
