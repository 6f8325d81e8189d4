"""Counts and durations of the calls of one backend, in bounded memory."""

import logging
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

log = logging.getLogger(__name__)

DURATIONS_KEPT = 100
"""The latest calls of a verb, of which the median is taken."""


class Verb(StrEnum):
    """The calls of a driver."""

    CHECK = "check"
    OFFERS = "offers"
    LAUNCH = "launch"
    LOOK_UP = "look_up"
    TERMINATE = "terminate"


SLOW_S = {Verb.CHECK: 20.0, Verb.OFFERS: 30.0, Verb.LAUNCH: 120.0, Verb.LOOK_UP: 30.0, Verb.TERMINATE: 60.0}
"""A call that takes longer is slow, in seconds."""


@dataclass(slots=True)
class VerbCounts:
    """The calls of one verb since the server started."""

    count: int = 0
    """The calls that have ended."""
    failed: int = 0
    running: int = 0
    longest_s: float = 0.0
    is_slow: bool = False
    """Whether its latest call was slow, or a call that runs has been for too long."""
    _latest_s: deque[float] = field(default_factory=lambda: deque(maxlen=DURATIONS_KEPT))

    @property
    def median_s(self) -> float:
        """The median duration of the latest calls, in seconds; 0 before the first."""
        return median(self._latest_s) if self._latest_s else 0.0

    def end(self, duration_s: float, *, failed: bool) -> None:
        """Count a call that has ended."""
        self.running -= 1
        self.count += 1
        self.failed += failed
        self.longest_s = max(self.longest_s, duration_s)
        self._latest_s.append(duration_s)


class Counts:
    """The calls of one backend, by verb. The log reports once that a verb has become slow, and once its recovery.

    Args:
        backend: the backend in a sentence.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.by_verb: dict[Verb, VerbCounts] = {}

    def begin(self, verb: Verb) -> VerbCounts:
        """Count a call that begins; returns the counts of its verb."""
        counts = self.by_verb.setdefault(verb, VerbCounts())
        counts.running += 1
        return counts

    def end(self, verb: Verb, duration_s: float, *, failed: bool) -> None:
        """Count a call that has ended, and report a change in its speed."""
        counts = self.by_verb[verb]
        counts.end(duration_s, failed=failed)
        if duration_s > SLOW_S[verb]:
            self.note_slow(verb)
        elif counts.is_slow:
            counts.is_slow = False
            log.info("%s is fast again: `%s` took %.1f s", self._backend, verb, duration_s)

    def note_slow(self, verb: Verb) -> None:
        """Report that a call takes, or took, too long."""
        counts = self.by_verb[verb]
        if not counts.is_slow:
            counts.is_slow = True
            usual = f"; the median is {counts.median_s:.1f} s" if counts.count else ""
            log.warning("%s is slow: `%s` takes more than %g s%s", self._backend, verb, SLOW_S[verb], usual)
