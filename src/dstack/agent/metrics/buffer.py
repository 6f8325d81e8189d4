"""Points on their way to the server: never more than an hour of each job, whatever server is away."""

from collections import deque
from collections.abc import Callable, Collection, Mapping

from dstack.protocol.agent import Point

POINTS_MAX = 360
"""Of one job: an hour, at one each ten seconds."""
SAID_AGAIN_S = 60.0
"""How long points are kept that were said: what was under way when a connection broke is said again."""


class Buffer:
    """Of each job the points that the server may not have."""

    def __init__(self) -> None:
        self.on_news: Callable[[], None] = lambda: None
        """Told when there are points more."""
        self._points: dict[str, deque[Point]] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._points

    def add(self, points: Mapping[str, Point]) -> None:
        """Keep one point of each of some jobs."""
        for job_id, point in points.items():
            self._points.setdefault(job_id, deque(maxlen=POINTS_MAX)).append(point)
        if points:
            self.on_news()

    def later_than(self, said: Mapping[str, float], at_most: int) -> dict[str, list[Point]]:
        """Points that have not been said on a connection.

        Args:
            said: the time of the last one that was, by job.
            at_most: how many.
        """
        found: dict[str, list[Point]] = {}
        for job_id, points in self._points.items():
            if at_most > 0 and points[-1].at > said.get(job_id, -1.0):
                found[job_id] = [one for one in points if one.at > said.get(job_id, -1.0)][:at_most]
                at_most -= len(found[job_id])
        return found

    def were_said(self, points: Mapping[str, list[Point]]) -> None:
        """Let go of what was said long enough before these."""
        for job_id, some in points.items():
            kept = self._points.get(job_id, deque())
            while kept and kept[0].at < some[-1].at - SAID_AGAIN_S:
                kept.popleft()

    def keep_only(self, job_ids: Collection[str]) -> None:
        """Let go of the points of all other jobs."""
        for job_id in self._points.keys() - job_ids:
            del self._points[job_id]
