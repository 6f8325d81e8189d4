"""The readiness of a replica, as its probes find it. Nothing is done here: `looking` looks, and this decides.

A probe looks again soon while it fails, so that a fast server is ready at once, and at its interval once it succeeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dstack.protocol.agent import Probe

FIRST_PAUSE_S = 0.05
"""After a failure; each further failure doubles it, up to the probe's interval."""
PORT = Probe(method="connect", interval_s=1.0, until_ready=True)
"""The probe of a replica without any: it succeeds once the port accepts a connection."""


@dataclass(slots=True)
class _Row:
    """One probe, and its latest answers."""

    probe: Probe
    successes: int = 0
    """In a row."""
    failure: str = ""
    """The reason why it failed last; empty after a success."""
    pause_s: float = FIRST_PAUSE_S

    @property
    def has_passed(self) -> bool:
        return self.successes >= self.probe.ready_after

    def took(self, failure: str) -> None:
        if not failure:
            self.successes += 1
            self.pause_s = FIRST_PAUSE_S
        elif self.successes:
            self.successes = 0
            self.pause_s = FIRST_PAUSE_S
        else:
            self.pause_s *= 2
        self.failure = failure

    def next_pause_s(self) -> float:
        return self.probe.interval_s if self.successes else min(self.pause_s, self.probe.interval_s)

    def why_not(self) -> str:
        if self.has_passed:
            return ""
        return self.failure or (
            f"`{title_of(self.probe)}` has succeeded {self.successes} of {self.probe.ready_after} times in a row"
            if self.successes
            else ""
        )


@dataclass(slots=True)
class Readiness:
    """The readiness of one replica. It is ready while all of its probes have passed."""

    probes: Sequence[Probe]
    is_ready: bool = False
    """At first as an earlier agent has left it, until the next look."""
    _rows: list[_Row] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = [_Row(probe, probe.ready_after if self.is_ready else 0) for probe in self.probes]
        self._was_ready = self.is_ready

    _was_ready: bool = field(init=False)

    def took(self, number: int, failure: str) -> None:
        """Note the result of a look.

        Args:
            number: the probe's place.
            failure: the reason; empty for a success.
        """
        self._rows[number].took(failure)
        self.is_ready = all(row.has_passed for row in self._rows if not self._has_ended(row))
        self._was_ready = self._was_ready or self.is_ready

    def pause_s(self, number: int) -> float | None:
        """Return the time until a probe's next look; None if it has ended."""
        row = self._rows[number]
        return None if self._has_ended(row) else row.next_pause_s()

    @property
    def reason(self) -> str:
        """Return why the replica is not ready; empty if it is, and before the first look."""
        if self.is_ready:
            return ""
        return next((why for row in self._rows if not self._has_ended(row) and (why := row.why_not())), "")

    def _has_ended(self, row: _Row) -> bool:
        return row.probe.until_ready and self._was_ready


def title_of(probe: Probe) -> str:
    """Return a probe as people write it.

    Examples:
        >>> title_of(Probe("/health", "get"))
        'GET /health'
    """
    return f"{probe.method.upper()} {probe.path}"
