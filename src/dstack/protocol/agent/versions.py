"""Versions of the protocol: a server and an agent that are one apart understand each other.

`hello` has the range that the server speaks, and `welcome` the version that the agent has chosen. Within a version only
fields and types of messages are added, which the other side ignores. A change that it must not ignore is a new version.
"""

VERSION = 2
"""1: the whole welcome in one message. 2: the welcome in pages."""
OLDEST_VERSION = VERSION - 1
PAGED_SINCE = 2


def shared_version(oldest: int, newest: int) -> int | None:
    """Return the newest version that this side speaks and the other side, too; None if no version is shared.

    Examples:
        >>> shared_version(1, 1), shared_version(2, 3), shared_version(3, 4)
        (1, 2, None)
    """
    common = min(VERSION, newest)
    return common if common >= max(OLDEST_VERSION, oldest) else None


def what_to_do(newest: int) -> str:
    """Return the advice where no version is shared.

    Args:
        newest: that the server speaks; this side is the agent's.
    """
    if newest > VERSION:
        return "Restart the agent: it starts in the server's version, and its jobs continue"
    return "Update the server"
