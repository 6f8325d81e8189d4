"""Pauses between attempts."""

import os
from collections.abc import Callable
from datetime import timedelta


def any_fraction() -> float:
    """Return a number from 0 to 1 by the system's chance. The module `random` takes long to load."""
    return int.from_bytes(os.urandom(2)) / (1 << 16)


class Pauses:
    """Pauses that double up to a longest one.

    Each is drawn from between its half and its whole, so that those who began together are soon out of step.

    Examples:
        >>> from random import Random
        >>> pauses = Pauses(timedelta(seconds=1), timedelta(seconds=3), Random(1).random)
        >>> [round(pauses.next().total_seconds(), 2) for _ in range(4)]
        [0.57, 1.85, 2.65, 1.88]
    """

    def __init__(self, first: timedelta, longest: timedelta, fraction: Callable[[], float] = any_fraction) -> None:
        """Begin with the first pause.

        Args:
            first: the first pause.
            longest: the longest pause.
            fraction: draws numbers from 0 to 1.
        """
        self._first = self._next = first
        self._longest = longest
        self._fraction = fraction

    def next(self) -> timedelta:
        """Return the pause before the next attempt."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause * (0.5 + 0.5 * self._fraction())

    def reset(self) -> None:
        """Begin again with the first."""
        self._next = self._first

    def extend(self) -> None:
        """Go on with the longest."""
        self._next = self._longest
