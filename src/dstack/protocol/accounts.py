"""The objects that the API returns about users, their tokens, projects and their members."""

from dstack.protocol.base import Time, View


class UserView(View, frozen=True, kw_only=True):
    """A user of the server."""

    name: str
    is_admin: bool
    """Whether the user is an admin of the server."""
    created_at: Time


class UserList(View, frozen=True, kw_only=True):
    """Users of the server."""

    users: list[UserView]


class TokenView(View, frozen=True, kw_only=True):
    """A token of a user."""

    name: str
    created_at: Time
    expires_at: Time | None = None
    value: str | None = None
    """The token itself, in the answer to its creation only."""


class TokenList(View, frozen=True, kw_only=True):
    """Tokens of a user."""

    tokens: list[TokenView]


class MemberView(View, frozen=True, kw_only=True):
    """A member of a project."""

    user: str
    role: str
    """`admin`, `manager` or `user`."""


class MemberList(View, frozen=True, kw_only=True):
    """Members of a project."""

    members: list[MemberView]


class ProjectView(View, frozen=True, kw_only=True):
    """A project, and the user's role in it."""

    name: str
    role: str
    """`admin`, `manager` or `user`."""


class ProjectList(View, frozen=True, kw_only=True):
    """The projects that the user may use."""

    projects: list[ProjectView]
