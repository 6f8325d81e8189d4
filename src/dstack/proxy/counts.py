"""Exact sums of the requests of one service."""

from bisect import bisect_left

from dstack.protocol.proxy import LATENCIES_S, Count


class Sums:
    """The requests of one service, counted."""

    __slots__ = ("errors", "held", "in_flight", "is_new", "latencies", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = self.in_flight = self.held = 0
        self.latencies = [0] * (len(LATENCIES_S) + 1)
        self.is_new = False
        """Whether something has changed since `take`."""

    def begin(self) -> None:
        """Note a request."""
        self.in_flight += 1
        self.is_new = True

    def end(self, is_error: bool, latency_s: float | None) -> None:
        """Note its end.

        Args:
            latency_s: from its head to the first byte of its answer; None without an answer.
        """
        self.in_flight -= 1
        self.requests += 1
        self.errors += is_error
        if latency_s is not None:
            self.latencies[bisect_left(LATENCIES_S, latency_s)] += 1
        self.is_new = True

    def take(self) -> Count | None:
        """Return the sums if they have changed since the last time, or while requests are in flight."""
        if not self.is_new and not self.in_flight:
            return None
        self.is_new = False
        return Count(self.requests, self.errors, self.in_flight, tuple(self.latencies), self.held)
