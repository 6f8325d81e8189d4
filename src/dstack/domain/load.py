"""The load of a service over time, from the histories of its data planes.

Points are uneven: at most one for each ten seconds, none while nothing happens, and none while no server listens.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from dstack.domain.traffic import HEARD, STEP, History

STEP_S, HEARD_S = STEP.total_seconds(), HEARD.total_seconds()
AHEAD_S = 3600.0
"""The time by which a report may be ahead, after a clock has jumped, and still be a sign of traffic now."""
SAMPLES_MAX = 12
"""The number of times at which the requests in flight are looked up for a mean."""


class _Plane:
    """The requests that one data plane has had until a time."""

    def __init__(self, history: History, now: float) -> None:
        # Arrivals only grow. A point with fewer begins a row of the store: it repeats the sums without those in flight.
        known = history[: bisect_right(history, now, key=lambda sums: sums.at)]
        arrived = [sums.requests + sums.in_flight for sums in known]
        points = [
            sums for sums, count, most in zip(known, arrived, accumulate(arrived, max), strict=True) if count == most
        ]
        self._times = [sums.at for sums in points]
        self._arrived: list[float] = [sums.requests + sums.in_flight for sums in points]
        self._ended = [sums.requests for sums in points]
        self._in_flight = [sums.in_flight for sums in points]
        self._is_late = [sums.is_late for sums in points]
        self.last = history[-1]
        """The latest report; a clock that has jumped may have put it into the future."""
        self.in_flight = self.last.in_flight
        """The number at the latest report, and for half a minute after it."""

    @property
    def begins_at(self) -> float | None:
        """The time of its first requests, about; None where the history does not go back to them."""
        return self._times[1] if len(self._times) > 1 and not self._arrived[0] else None

    def replace(self, before: "_Plane") -> None:
        """Take the place of one that has died: the requests that it has lost come again, and are not new ones."""
        self._arrived[0] = min(self._arrived[1], self._arrived[0] + before.in_flight)
        before.in_flight = 0

    def is_heard(self, at: float) -> bool:
        return at - self.last.at <= HEARD_S

    def arrived(self, begin: float, end: float) -> float:
        """Return the number of arrivals in a window, which ends early if a report about its end is still missing."""
        known = self._times[-1] if self._times and self.in_flight and self.is_heard(end) else end
        shift = max(0.0, end - known)
        return self._at(end - shift, self._arrived) - self._at(begin - shift, self._arrived)

    def ended(self, begin: float, end: float) -> float:
        """Return the number of requests that ended."""
        return self._at(end, self._ended) - self._at(begin, self._ended)

    def in_flight_at(self, at: float) -> int:
        if not self._times or at >= self._times[-1]:
            return self.in_flight if self.is_heard(at) else 0
        return self._in_flight[max(0, bisect_right(self._times, at) - 1)]

    def busy_until(self, now: float) -> float:
        """Return the time until which there were signs of requests."""
        at = self.last.at if self.last.at <= now + AHEAD_S or not self._times else self._times[-1]
        return min(at, now) + (HEARD_S if self.in_flight else 0.0)

    def _at(self, at: float, values: Sequence[float]) -> float:
        """Return a value at a time.

        Between two points it changes evenly. Where there were no requests in flight, it changes in the last ten
        seconds: a data plane reports at once. A late report counts evenly.
        """
        place = bisect_right(self._times, at)
        if place == 0 or place == len(values):
            return values[place - 1 if place else 0] if values else 0
        before, after = self._times[place - 1], self._times[place]
        is_even = self._in_flight[place - 1] or self._is_late[place]
        gap_s = after - before if is_even else min(STEP_S, after - before)
        share = max(0.0, 1 - (after - at) / gap_s)
        return values[place - 1] + share * (values[place] - values[place - 1])


class Load:
    """The requests of a service until a time, those of all its data planes."""

    def __init__(self, histories: Sequence[History], now: float) -> None:
        """Read the histories, in which reports may be missing, repeated, or of the future."""
        self.now = now
        self._known: dict[tuple[float, float], float] = {}
        self._planes = [_Plane(history, now) for history in histories if history]
        for later in self._planes:
            for plane in self._planes:
                if plane.in_flight and plane.last.at < (later.begins_at or 0.0) <= plane.last.at + HEARD_S:
                    later.replace(plane)
        self.in_flight = sum(plane.in_flight for plane in self._planes if plane.is_heard(now))
        self.held = sum(plane.last.held for plane in self._planes if plane.is_heard(now) and plane.in_flight)
        self.busy_until = max((plane.busy_until(now) for plane in self._planes), default=-math.inf)
        """The time of the last sign of a request; in the future while a data plane has some in flight."""

    def arrived(self, at: float, window_s: float) -> float:
        """Return the number of arrivals in a window that ends at a time."""
        if (at, window_s) not in self._known:  # the same ones are looked up for several reasons
            self._known[at, window_s] = max(0.0, sum(plane.arrived(at - window_s, at) for plane in self._planes))
        return self._known[at, window_s]

    def ended(self, at: float, window_s: float) -> float:
        """Return the number of requests that ended in a window."""
        return sum(plane.ended(at - window_s, at) for plane in self._planes)

    def in_flight_at(self, at: float) -> int:
        """Return the number of requests in flight at a time."""
        return sum(plane.in_flight_at(at) for plane in self._planes)

    def mean_in_flight(self, at: float, window_s: float) -> float:
        """Return the mean number of requests in flight in a window."""
        count = min(SAMPLES_MAX, max(1, round(window_s / STEP_S)))
        times = (at - window_s * (number + 0.5) / count for number in range(count))
        return sum(map(self.in_flight_at, times)) / count
