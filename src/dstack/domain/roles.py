"""The one table of what each role may do."""

from collections.abc import Mapping

from dstack.protocol.actions import Action, Role

OF_EVERYONE = frozenset((Action.READ_ACCOUNT, Action.MANAGE_TOKENS, Action.CREATE_PROJECTS))
"""Actions outside projects that every user may do."""
OF_SERVER_ADMINS = frozenset((Action.MANAGE_USERS, Action.MANAGE_SERVER, Action.AUDIT))
"""Actions outside projects that only admins of the server may do."""

_MANAGERS = frozenset((Role.ADMIN, Role.MANAGER))
ALLOWED: Mapping[Action, frozenset[Role]] = {
    Action.READ: frozenset(Role),
    Action.RUN: frozenset(Role),
    Action.READ_SECRETS: _MANAGERS,
    Action.WRITE_SECRETS: _MANAGERS,
    Action.MANAGE_MEMBERS: _MANAGERS,
    Action.MANAGE_BACKENDS: frozenset((Role.ADMIN,)),
    Action.DELETE_PROJECT: frozenset((Role.ADMIN,)),
}
"""The roles in a project that may do an action in it."""


def is_for_all(action: Action) -> bool:
    """Return whether everyone who may know of the object may do the action."""
    return action in OF_EVERYONE or ALLOWED.get(action) == frozenset(Role)


def may_give(giver: Role, role: Role) -> bool:
    """Return whether a member may give a role to others, or take it from them. The role must not be above the own one.

    Examples:
        >>> may_give(Role.MANAGER, Role.USER), may_give(Role.MANAGER, Role.ADMIN)
        (True, False)
    """
    order = list(Role)
    return giver in ALLOWED[Action.MANAGE_MEMBERS] and order.index(giver) <= order.index(role)
