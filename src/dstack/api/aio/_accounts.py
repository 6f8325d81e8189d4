"""The asyncio form of `dstack.api._accounts`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from dstack import api
    from dstack.api.aio._threads import Threads
    from dstack.protocol.accounts import MemberView, TokenView, UserView


class MemberCollection:
    """The members of one project.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         print([(one.user, one.role) for one in await client.members.list()])
        >>> asyncio.run(main())
        [('admin', 'admin')]
    """

    def __init__(self, members: api.MemberCollection, threads: Threads) -> None:
        self._members = members
        self._threads = threads

    async def list(self) -> list[MemberView]:
        """Return the members with their roles, by name.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print([one.user for one in await client.members.list()])
            >>> asyncio.run(main())
            ['admin']
        """
        return await self._threads.call(self._members.list)

    async def set(self, user: str, role: str) -> None:
        """Add a member, or change a member's role.

        Args:
            user: the user's name.
            role: `admin`, `manager` or `user`, and none above the role of the caller.

        Raises:
            ForbiddenError: the caller's role does not allow it.
            InvalidRequestError: the role is unknown, or the project would have no admin.
            ResourceNotExistsError: there is no such user.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         user = await client.users.create("barbara")
            ...         await client.members.set("barbara", "user")
            ...         await client.users.delete("barbara")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._members.set, user, role)

    async def remove(self, user: str) -> None:
        """Remove a member. Active runs of that user go on.

        Args:
            user: the user's name.

        Raises:
            ForbiddenError: the caller's role does not allow it.
            InvalidRequestError: the project would have no admin.
            ResourceNotExistsError: the project has no such member.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         user = await client.users.create("edsger")
            ...         await client.members.set("edsger", "user")
            ...         await client.members.remove("edsger")
            ...         await client.users.delete("edsger")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._members.remove, user)


class TokenCollection:
    """The tokens of a user: of the caller, unless an admin of the server names another.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         tokens = client.tokens
        ...         print((len((await tokens.create("ci")).value) > 20, [one.name for one in await tokens.list()]))
        ...         await tokens.delete("ci")
        >>> asyncio.run(main())
        (True, ['ci', 'server'])
    """

    def __init__(self, tokens: api.TokenCollection, threads: Threads) -> None:
        self._tokens = tokens
        self._threads = threads

    async def list(self, user: str | None = None) -> list[TokenView]:
        """Return tokens without their values, by name.

        Args:
            user: the user; by default the caller.

        Raises:
            ForbiddenError: another user's tokens are for admins of the server.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print([one.name for one in await client.tokens.list()])
            >>> asyncio.run(main())
            ['server']
        """
        return await self._threads.call(self._tokens.list, user)

    async def create(self, name: str, expires_in: timedelta | None = None, user: str | None = None) -> TokenView:
        """Create a token.

        Args:
            name: a name that distinguishes it from the user's other tokens.
            expires_in: the time until it expires, from a minute to ten years; None for never.
            user: the user; by default the caller.

        Returns:
            The token. Its `value` cannot be read again.

        Raises:
            ForbiddenError: another user's tokens are for admins of the server.
            InvalidRequestError: an argument is invalid.
            ResourceExistsError: the user has a token of that name.

        Examples:
            >>> import asyncio
            >>> from datetime import timedelta
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         tokens = client.tokens
            ...         print((await tokens.create("today", expires_in=timedelta(days=1))).expires_at is None)
            ...         await tokens.delete("today")
            >>> asyncio.run(main())
            False
        """
        return await self._threads.call(self._tokens.create, name, expires_in, user)

    async def delete(self, name: str, user: str | None = None) -> None:
        """Delete a token. It is refused at once, and streams that it opened end within 15 s.

        Args:
            name: the token's name.
            user: the user; by default the caller.

        Raises:
            ForbiddenError: another user's tokens are for admins of the server.
            InvalidRequestError: the token is the server's own, which each start of the server sets.
            ResourceNotExistsError: the user has no such token.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         tokens = client.tokens
            ...         token = await tokens.create("old")
            ...         await tokens.delete("old")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._tokens.delete, name, user)


class UserCollection:
    """The users of the server. All but `me` is for admins of the server.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         user = await client.users.create("ada")
        ...         token = (await client.tokens.create("laptop", user="ada")).value
        ...         await client.members.set("ada", "manager")
        ...         print([(one.user, one.role) for one in await client.members.list()])
        ...         await client.users.delete("ada")
        >>> asyncio.run(main())
        [('ada', 'manager'), ('admin', 'admin')]
    """

    def __init__(self, users: api.UserCollection, threads: Threads) -> None:
        self._users = users
        self._threads = threads

    async def me(self) -> UserView:
        """Return the user whose token this client has.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print((await client.users.me()).name)
            >>> asyncio.run(main())
            admin
        """
        return await self._threads.call(self._users.me)

    async def list(self) -> list[UserView]:
        """Return all users, by name.

        Raises:
            ForbiddenError: the caller is not an admin of the server.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print([user.name for user in await client.users.list()])
            >>> asyncio.run(main())
            ['admin']
        """
        return await self._threads.call(self._users.list)

    async def create(self, name: str, is_admin: bool = False) -> UserView:
        """Create a user, who has no token and no project yet. A deleted user of that name is restored.

        Args:
            name: 1 to 60 lower-case letters, digits, `.`, `_` and `-`.
            is_admin: whether the user is an admin of the server.

        Raises:
            ForbiddenError: the caller is not an admin of the server.
            InvalidRequestError: the name is malformed.
            ResourceExistsError: there is a user of that name.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         users = client.users
            ...         print((await users.create("grace")).is_admin)
            ...         await users.delete("grace")
            >>> asyncio.run(main())
            False
        """
        return await self._threads.call(self._users.create, name, is_admin)

    async def set_admin(self, name: str, is_admin: bool) -> None:
        """Make a user an admin of the server, or no admin.

        Args:
            name: the user's name.
            is_admin: whether the user is an admin of the server.

        Raises:
            ForbiddenError: the caller is not an admin of the server.
            InvalidRequestError: the server would have no admin.
            ResourceNotExistsError: there is no such user.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         users = client.users
            ...         user = await users.create("linus")
            ...         await users.set_admin("linus", True)
            ...         await users.delete("linus")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._users.set_admin, name, is_admin)

    async def delete(self, name: str) -> None:
        """Delete a user's tokens and memberships. Finished runs keep the name.

        Args:
            name: the user's name.

        Raises:
            ForbiddenError: the caller is not an admin of the server.
            InvalidRequestError: a run of the user has not finished, or the server would have no admin.
            ResourceNotExistsError: there is no such user.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         users = client.users
            ...         user = await users.create("alan")
            ...         await users.delete("alan")
            >>> asyncio.run(main())
        """
        await self._threads.call(self._users.delete, name)
