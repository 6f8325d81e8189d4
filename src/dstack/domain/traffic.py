"""The traffic of a service, from the sums that data planes report.

A data plane counts from its start on, so that a report that is lost or repeated changes nothing. A service has one
history of sums for each data plane that has ever had its requests.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import accumulate, zip_longest

from dstack.protocol.proxy import LATENCIES_S, Count

WINDOW = timedelta(minutes=1)
"""Rates and latencies are those of so long."""
STEP = timedelta(seconds=10)
"""The interval of stored sums, and of a chart's points."""
HEARD = timedelta(seconds=30)
"""A data plane with requests in flight reports more often than that: after a longer silence it has none."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of one data plane at one time."""

    at: float
    """The time, in seconds since the epoch."""
    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    latencies: tuple[int, ...] = ()
    """By the classes of `LATENCIES_S`."""
    held: int = 0
    """Those in flight that wait for a replica."""
    is_late: bool = False
    """Whether the requests since the sums before came at any time since then: nothing was reported for a while."""

    def plus(self, other: "Sums", times: int = 1) -> "Sums":
        """Return these sums with others added; those in flight and held stay, and whether they are late."""
        latencies = zip_longest(self.latencies, other.latencies, fillvalue=0)
        return Sums(
            self.at,
            self.requests + times * other.requests,
            self.errors + times * other.errors,
            self.in_flight,
            tuple(mine + times * its for mine, its in latencies),
            self.held,
            self.is_late,
        )


History = Sequence[Sums]
"""The sums of one data plane, in order of time. The first ones hold for all times before, too."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of a service at one time."""

    at: float
    """The time, in seconds since the epoch."""
    requests: int
    errors: int
    requests_per_s: float
    errors_per_s: float
    in_flight: int
    held: int
    """Those in flight that wait for a replica."""
    latency_p50_s: float | None
    latency_p95_s: float | None


def sums_of(count: Count, at: float, *, is_late: bool = False) -> Sums:
    """Return what a data plane has reported at a time."""
    return Sums(at, count.requests, count.errors, count.in_flight, count.latencies, count.held, is_late)


def traffic_of(histories: Iterable[History], now: float, window_s: float = WINDOW.total_seconds()) -> Traffic:
    """Return the traffic of a service.

    Args:
        histories: one for each data plane.
        now: the time of the answer, in seconds since the epoch.
        window_s: the time over which rates and latencies are averaged, in seconds.

    Examples:
        >>> traffic = traffic_of([[Sums(0), Sums(30, 60, 6, in_flight=2)], [Sums(0), Sums(1, 60)]], now=60)
        >>> traffic.requests, traffic.errors, traffic.requests_per_s, traffic.in_flight
        (120, 6, 2.0, 2)
    """
    whole = recent = Sums(now)
    in_flight = held = 0
    for history in histories:
        last = _at(history, now)
        whole = whole.plus(last)
        recent = recent.plus(last).plus(_at(history, now - window_s), times=-1)
        if now - last.at <= HEARD.total_seconds():
            in_flight += last.in_flight
            held += last.held
    return Traffic(
        at=now,
        requests=whole.requests,
        errors=whole.errors,
        requests_per_s=recent.requests / window_s,
        errors_per_s=recent.errors / window_s,
        in_flight=in_flight,
        held=held,
        latency_p50_s=quantile(recent.latencies, 0.5),
        latency_p95_s=quantile(recent.latencies, 0.95),
    )


def course_of(histories: Sequence[History], begin: float, end: float) -> list[Traffic]:
    """Return the traffic of each interval of `STEP` between two times, with the greatest `held` of each."""
    step_s = STEP.total_seconds()
    ends = [number * step_s for number in range(int(begin // step_s) + 1, int(end // step_s) + 1)]
    return [
        replace(
            traffic_of(histories, at, step_s), held=sum(_most_held(history, at - step_s, at) for history in histories)
        )
        for at in ends
    ]


def _most_held(history: History, begin: float, end: float) -> int:
    """Return the greatest number of requests that waited between two times."""
    first, last = (bisect_right(history, time, key=lambda sums: sums.at) for time in (begin, end))
    before = [sums for sums in history[max(first - 1, 0) : first] if begin - sums.at <= HEARD.total_seconds()]
    return max((sums.held for sums in (*before, *history[first:last])), default=0)


def quantile(latencies: Sequence[int], share: float) -> float | None:
    """Return the latency that a share of the answers did not exceed, in seconds, about; None without answers.

    Examples:
        >>> quantile([0, 0, 4], 0.5), quantile([], 0.5), quantile([0] * 13 + [1], 0.95)
        (0.0175, None, 60)
    """
    ends = list(accumulate(latencies))
    if not ends or ends[-1] <= 0:
        return None
    rank = share * ends[-1]
    place = bisect_left(ends, rank)
    if place >= len(LATENCIES_S):
        return LATENCIES_S[-1]
    lower = LATENCIES_S[place - 1] if place else 0.0
    return round(lower + (LATENCIES_S[place] - lower) * (1 - (ends[place] - rank) / latencies[place]), 6)


def _at(history: History, time: float) -> Sums:
    return history[max(0, bisect_right(history, time, key=lambda sums: sums.at) - 1)]
