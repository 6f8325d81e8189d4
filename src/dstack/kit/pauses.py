"""Pauses between attempts."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


class Pauses:
    """Pauses that double up to a longest one.

    Each is drawn from between its half and its whole, so that those who began together are soon out of step.

    Examples:
        >>> from random import Random
        >>> pauses = Pauses(timedelta(seconds=1), timedelta(seconds=3), Random(1))
        >>> [round(pauses.next().total_seconds(), 2) for _ in range(4)]
        [0.57, 1.85, 2.65, 1.88]
    """

    def __init__(self, first: timedelta, longest: timedelta, chance: "random.Random") -> None:
        self._first = self._next = first
        self._longest = longest
        self._chance = chance

    def next(self) -> timedelta:
        """Return the pause before the next attempt."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause * self._chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again with the first."""
        self._next = self._first

    def extend(self) -> None:
        """Go on with the longest."""
        self._next = self._longest
