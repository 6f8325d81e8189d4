"""Drains: a replica that is to end takes no new requests, and finishes those that it has."""

from collections.abc import Set
from datetime import datetime, timedelta

DRAIN_FOR = timedelta(hours=1)
"""The longest time for the requests of a replica that is replaced: an update comes to an end."""
SCALE_IN_FOR = timedelta(hours=24)
"""The longest time for the requests of a replica that is not needed: they cost no more than its machine."""
ROUTES_WITHIN = timedelta(seconds=2)
"""The time in which changed routes arrive at every data plane."""
LOOK_AGAIN = timedelta(seconds=10)
"""The time between two looks at a drain: a server that has died is waited for no longer."""


def drain_goes_on_for(since: datetime, waits_for: Set[str], now: datetime, longest: timedelta = DRAIN_FOR) -> timedelta:
    """Return the time until the next look at a drain; zero once it has ended.

    Args:
        since: when it began.
        waits_for: the live servers whose data planes may have requests of the replica.

    Examples:
        >>> noon = datetime(2030, 1, 1, 12)
        >>> drain_goes_on_for(noon, {"server"}, noon + timedelta(minutes=59, seconds=58)).total_seconds()
        2.0
        >>> drain_goes_on_for(noon, set(), noon + ROUTES_WITHIN) == timedelta(0)
        True
    """
    age = now - since
    if age < ROUTES_WITHIN:
        return ROUTES_WITHIN - age
    return min(max(longest - age, timedelta(0)), LOOK_AGAIN) if waits_for else timedelta(0)
