"""Users of the server, their tokens, and the members of a project."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack.api._transport import Transport
    from dstack.protocol.accounts import MemberView, TokenView, UserView


class UserCollection:
    """The users of the server. All but `me` is for admins of the server.

    Examples:
        >>> from dstack.api import Client
        >>> client = Client.from_config()
        >>> user = client.users.create("ada")
        >>> token = client.tokens.create("laptop", user="ada").value
        >>> client.members.set("ada", "manager")
        >>> [(one.user, one.role) for one in client.members.list()]
        [('ada', 'manager'), ('admin', 'admin')]
        >>> client.users.delete("ada")
    """

    def __init__(self, transport: "Transport") -> None:
        self._transport = transport

    def me(self) -> "UserView":
        """Return the user whose token this client has.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().users.me().name
            'admin'
        """
        from dstack.protocol import routes

        view: UserView = self._transport.call(routes.GET_ME)
        return view

    def list(self) -> "list[UserView]":
        """Return all users, by name.

        Raises:
            ForbiddenError: the caller is not an admin of the server.

        Examples:
            >>> from dstack.api import Client
            >>> [user.name for user in Client.from_config().users.list()]
            ['admin']
        """
        from dstack.protocol import routes
        from dstack.protocol.accounts import UserList

        reply: UserList = self._transport.call(routes.LIST_USERS)
        return reply.users

    def create(self, name: str, is_admin: bool = False) -> "UserView":
        """Create a user, who has no token and no project yet. A deleted user of that name is restored.

        Args:
            name: 1 to 60 lower-case letters, digits, `.`, `_` and `-`.
            is_admin: whether the user is an admin of the server.

        Raises:
            ForbiddenError: the caller is not an admin of the server.
            InvalidRequestError: the name is malformed.
            ResourceExistsError: there is a user of that name.

        Examples:
            >>> from dstack.api import Client
            >>> users = Client.from_config().users
            >>> users.create("grace").is_admin
            False
            >>> users.delete("grace")
        """
        from dstack.protocol import routes
        from dstack.protocol.requests import CreateUser

        view: UserView = self._transport.call(routes.CREATE_USER, CreateUser(name=name, is_admin=is_admin))
        return view

    def set_admin(self, name: str, is_admin: bool) -> None:
        """Make a user an admin of the server, or no admin.

        Args:
            name: the user's name.
            is_admin: whether the user is an admin of the server.

        Raises:
            ForbiddenError: the caller is not an admin of the server.
            InvalidRequestError: the server would have no admin.
            ResourceNotExistsError: there is no such user.

        Examples:
            >>> from dstack.api import Client
            >>> users = Client.from_config().users
            >>> user = users.create("linus")
            >>> users.set_admin("linus", True)
            >>> users.delete("linus")
        """
        from dstack.protocol import routes
        from dstack.protocol.requests import UpdateUser

        self._transport.call(routes.UPDATE_USER, UpdateUser(is_admin=is_admin), user=name)

    def delete(self, name: str) -> None:
        """Delete a user's tokens and memberships. Finished runs keep the name.

        Args:
            name: the user's name.

        Raises:
            ForbiddenError: the caller is not an admin of the server.
            InvalidRequestError: a run of the user has not finished, or the server would have no admin.
            ResourceNotExistsError: there is no such user.

        Examples:
            >>> from dstack.api import Client
            >>> users = Client.from_config().users
            >>> user = users.create("alan")
            >>> users.delete("alan")
        """
        from dstack.protocol import routes

        self._transport.call(routes.DELETE_USER, user=name)


class TokenCollection:
    """The tokens of a user: of the caller, unless an admin of the server names another.

    Examples:
        >>> from dstack.api import Client
        >>> tokens = Client.from_config().tokens
        >>> len(tokens.create("ci").value) > 20, [one.name for one in tokens.list()]
        (True, ['ci', 'server'])
        >>> tokens.delete("ci")
    """

    def __init__(self, transport: "Transport") -> None:
        self._transport = transport

    def list(self, user: str | None = None) -> "list[TokenView]":
        """Return tokens without their values, by name.

        Args:
            user: the user; by default the caller.

        Raises:
            ForbiddenError: another user's tokens are for admins of the server.

        Examples:
            >>> from dstack.api import Client
            >>> [one.name for one in Client.from_config().tokens.list()]
            ['server']
        """
        from dstack.protocol import routes
        from dstack.protocol.accounts import TokenList

        reply: TokenList = self._transport.call(routes.LIST_TOKENS, user=user or self._me())
        return reply.tokens

    def create(self, name: str, expires_in: timedelta | None = None, user: str | None = None) -> "TokenView":
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
            >>> from datetime import timedelta
            >>> from dstack.api import Client
            >>> tokens = Client.from_config().tokens
            >>> tokens.create("today", expires_in=timedelta(days=1)).expires_at is None
            False
            >>> tokens.delete("today")
        """
        from dstack.protocol import routes
        from dstack.protocol.requests import CreateToken

        seconds = None if expires_in is None else round(expires_in.total_seconds())
        request = CreateToken(name=name, expires_in_s=seconds)
        view: TokenView = self._transport.call(routes.CREATE_TOKEN, request, user=user or self._me())
        return view

    def delete(self, name: str, user: str | None = None) -> None:
        """Delete a token. It is refused at once, and streams that it opened end within 15 s.

        Args:
            name: the token's name.
            user: the user; by default the caller.

        Raises:
            ForbiddenError: another user's tokens are for admins of the server.
            InvalidRequestError: the token is the server's own, which each start of the server sets.
            ResourceNotExistsError: the user has no such token.

        Examples:
            >>> from dstack.api import Client
            >>> tokens = Client.from_config().tokens
            >>> token = tokens.create("old")
            >>> tokens.delete("old")
        """
        from dstack.protocol import routes

        self._transport.call(routes.DELETE_TOKEN, user=user or self._me(), token=name)

    def _me(self) -> str:
        return UserCollection(self._transport).me().name


class MemberCollection:
    """The members of one project.

    Examples:
        >>> from dstack.api import Client
        >>> [(one.user, one.role) for one in Client.from_config().members.list()]
        [('admin', 'admin')]
    """

    def __init__(self, transport: "Transport", project: str) -> None:
        self._transport = transport
        self._project = project

    def list(self) -> "list[MemberView]":
        """Return the members with their roles, by name.

        Examples:
            >>> from dstack.api import Client
            >>> [one.user for one in Client.from_config().members.list()]
            ['admin']
        """
        from dstack.protocol import routes
        from dstack.protocol.accounts import MemberList

        reply: MemberList = self._transport.call(routes.LIST_MEMBERS, project=self._project)
        return reply.members

    def set(self, user: str, role: str) -> None:
        """Add a member, or change a member's role.

        Args:
            user: the user's name.
            role: `admin`, `manager` or `user`, and none above the role of the caller.

        Raises:
            ForbiddenError: the caller's role does not allow it.
            InvalidRequestError: the role is unknown, or the project would have no admin.
            ResourceNotExistsError: there is no such user.

        Examples:
            >>> from dstack.api import Client
            >>> client = Client.from_config()
            >>> user = client.users.create("barbara")
            >>> client.members.set("barbara", "user")
            >>> client.users.delete("barbara")
        """
        from typing import Any

        from dstack.protocol import routes
        from dstack.protocol.requests import SetMember

        given: Any = role  # the server judges it
        self._transport.call(routes.SET_MEMBER, SetMember(role=given), project=self._project, user=user)

    def remove(self, user: str) -> None:
        """Remove a member. Active runs of that user go on.

        Args:
            user: the user's name.

        Raises:
            ForbiddenError: the caller's role does not allow it.
            InvalidRequestError: the project would have no admin.
            ResourceNotExistsError: the project has no such member.

        Examples:
            >>> from dstack.api import Client
            >>> client = Client.from_config()
            >>> user = client.users.create("edsger")
            >>> client.members.set("edsger", "user")
            >>> client.members.remove("edsger")
            >>> client.users.delete("edsger")
        """
        from dstack.protocol import routes

        self._transport.call(routes.REMOVE_MEMBER, project=self._project, user=user)
