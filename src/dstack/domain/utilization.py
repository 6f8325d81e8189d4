"""Whether a run uses the cards it holds: the rule of `utilization_policy`."""

from collections.abc import Sequence
from datetime import timedelta

from dstack.kit.units import duration_text
from dstack.protocol.agent import Point
from dstack.spec.profile import UtilizationPolicy

GAP_MAX_S = 60.0
"""The longest gap between two points; the usage in a longer one is not known."""

RECENT_S = 120.0
"""How old a job's latest point may be for the job to be judged: points come late, and hosts' clocks differ."""


def kept_for(policy: UtilizationPolicy) -> timedelta:
    """Return the time for which points are needed to judge a job."""
    return timedelta(seconds=policy.time_window + GAP_MAX_S)


def may_be_idle(policy: UtilizationPolicy, points: Sequence[Point]) -> bool:
    """Whether a job is idle by these points: every GPU reported its use, below the required one."""
    return all(
        point.gpus
        and all(
            gpu.utilization_percent is not None and gpu.utilization_percent < policy.min_gpu_utilization
            for gpu in point.gpus
        )
        for point in points
    )


def left_of_window(policy: UtilizationPolicy, points: Sequence[Point]) -> timedelta:
    """Return how much longer a job must be idle to fill the whole window.

    A job without cards, and one of which nothing is known for a while, is not idle.
    """
    since = None
    for later, point in zip([*points[1:], None], points, strict=True):
        if not may_be_idle(policy, [point]) or (later is not None and later.at - point.at > GAP_MAX_S):
            since = None
        elif since is None:
            since = point.at
    idle_s = points[-1].at - since if since is not None else 0.0
    return timedelta(seconds=max(0.0, policy.time_window - idle_s))


def are_recent(jobs: Sequence[Sequence[Point]], now_s: float) -> bool:
    """Whether the latest points of all jobs of a run are recent, and so of the same time.

    Args:
        now_s: by the server's clock, in seconds since 1970.

    Examples:
        >>> are_recent([[Point(0.0, 1.0, 1.0), Point(100.0, 1.0, 1.0)], [Point(150.0, 1.0, 1.0)]], 200.0)
        True
    """
    latest = [points[-1].at for points in jobs]
    return max(now_s, *latest) - min(latest) <= RECENT_S


def why_idle(policy: UtilizationPolicy, jobs: Sequence[Sequence[Point]]) -> str:
    """Why a run whose jobs were all idle for the whole window is to end, for people.

    Examples:
        >>> from dstack.protocol.agent import GpuPoint
        >>> policy = UtilizationPolicy(min_gpu_utilization=10, time_window="5m")
        >>> points = [Point(at, 1.0, 100.0, (GpuPoint(3.0, 5.0),)) for at in range(0, 310, 10)]
        >>> left_of_window(policy, points)
        datetime.timedelta(0)
        >>> why_idle(policy, [points])
        'no GPU was more than 3% busy for 5m; `utilization_policy` asks for 10%'
    """
    inside = [point for points in jobs for point in points if point.at >= points[-1].at - policy.time_window]
    busiest = max(gpu.utilization_percent or 0.0 for point in inside for gpu in point.gpus)
    return (
        f"no GPU was more than {busiest:.3g}% busy for {duration_text(policy.time_window)}; "
        f"`utilization_policy` asks for {policy.min_gpu_utilization}%"
    )
