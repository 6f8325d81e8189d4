"""The asyncio form of `dstack.api._backends`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack import api
    from dstack.api._backends import Backend
    from dstack.api.aio._threads import Threads


class BackendCollection:
    """The backends of one project.

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

    async def list(self) -> list[Backend]:
        """Return all backends of the project.

        Raises:
            ServerUnreachableError: no server answers.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print(await client.backends.list())
            >>> asyncio.run(main())
            [Backend(name='local', is_silent=False)]
        """
        return await self._threads.call(self._backends.list)
