"""The asyncio form of `dstack.api._secrets`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack import api
    from dstack.api.aio._threads import Threads
    from dstack.protocol.views import SecretView


class SecretCollection:
    """The secrets of one project. The server stores their values encrypted.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         secrets = client.secrets
        ...         await secrets.set("HF_TOKEN", "hf_123")
        ...         print(([one.name for one in await secrets.list()], await secrets.get("HF_TOKEN")))
        ...         await secrets.delete("HF_TOKEN")
        >>> asyncio.run(main())
        (['HF_TOKEN'], 'hf_123')
    """

    def __init__(self, secrets: api.SecretCollection, threads: Threads) -> None:
        self._secrets = secrets
        self._threads = threads

    async def set(self, name: str, value: str) -> None:
        """Store a secret. Replaces the secret of that name, if there is one.

        Args:
            name: the secret's name: letters, digits, `-` and `_`, beginning with a letter or `_`.
            value: a text of at most 50,000 characters.

        Raises:
            InvalidRequestError: the name is invalid.
            ConfigurationError: the value is not text, or too long. The message does not show the value.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         await client.secrets.set("TOKEN", "123")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._secrets.set, name, value)

    async def get(self, name: str) -> str:
        """Return the value of a secret. Only admins and managers of the project may read it.

        Args:
            name: the secret's name.

        Raises:
            ResourceNotExistsError: the secret is missing.
            ForbiddenError: the caller is neither an admin nor a manager of the project.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         secrets = client.secrets
            ...         await secrets.set("TOKEN", "123")
            ...         print(await secrets.get("TOKEN"))
            >>> asyncio.run(main())
            123
        """
        return await self._threads.call(self._secrets.get, name)

    async def list(self) -> list[SecretView]:
        """Return all secrets of the project, without values: `name`, and `updated_at`, the time of the last change.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         secrets = client.secrets
            ...         await secrets.set("TOKEN", "123")
            ...         print("TOKEN" in [one.name for one in await secrets.list()])
            >>> asyncio.run(main())
            True
        """
        return await self._threads.call(self._secrets.list)

    async def delete(self, name: str) -> None:
        """Delete a secret.

        Args:
            name: the secret's name.

        Raises:
            ResourceNotExistsError: the secret is missing.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         secrets = client.secrets
            ...         await secrets.set("OLD", "123")
            ...         await secrets.delete("OLD")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._secrets.delete, name)
