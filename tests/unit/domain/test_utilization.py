"""When a run is taken to be idle, and what it is told."""

from datetime import timedelta

import pytest

from dstack.domain.utilization import are_recent, left_of_window, may_be_idle, why_idle
from dstack.protocol.agent import GpuPoint, Point
from dstack.spec.parse import configuration_of
from dstack.spec.profile import UtilizationPolicy

POLICY = UtilizationPolicy(min_gpu_utilization=10, time_window="5m")  # type: ignore[arg-type]
WINDOW = timedelta(minutes=5)
NONE_LEFT = timedelta(0)


def point(at: float, *busy: float | None) -> Point:
    return Point(at, 1.0, 1.0, tuple(GpuPoint(one, None) for one in busy))


def points(*busy: float | None, begin: int = 0, end: int = 300) -> list[Point]:
    """One each ten seconds."""
    return [point(at, *busy) for at in range(begin, end + 1, 10)]


@pytest.mark.parametrize(
    "seen, left",
    [
        (points(3.0), NONE_LEFT),
        (points(9.9, 0.0, 5.0), NONE_LEFT),
        (points(3.0, end=1000), NONE_LEFT),
        (points(3.0, end=290), timedelta(seconds=10)),
        (points(3.0, end=0), WINDOW),
        (points(10.0), WINDOW),
        (points(0.0, 10.0), WINDOW),
        (points(90.0, end=1000), WINDOW),
        ([*points(90.0), *points(3.0, begin=310, end=620)], NONE_LEFT),
        ([*points(90.0), *points(3.0, begin=310, end=410)], timedelta(seconds=200)),
        ([*points(3.0, end=150), point(155, 90.0), *points(3.0, begin=160, end=300)], timedelta(seconds=160)),
        ([*points(3.0), point(310, 90.0)], WINDOW),
        (points(), WINDOW),
        (points(None), WINDOW),
        (points(3.0, None), WINDOW),
        ([*points(3.0, end=150), point(155, None), *points(3.0, begin=160, end=300)], timedelta(seconds=160)),
        ([*points(3.0, end=150), *points(3.0, begin=210, end=300)], NONE_LEFT),
        ([*points(3.0, end=150), *points(3.0, begin=220, end=300)], timedelta(seconds=220)),
    ],
    ids=[
        *("idle for the window", "all cards are", "for longer", "not long enough yet", "just begun"),
        *("as busy as it must be", "one card of two is busy", "busy", "busy once, idle since", "idle for a while"),
        *("busy once in the window", "busy just now", "no cards", "the card does not tell", "one of two does not"),
        *("it did not tell once", "a short silence", "a long silence"),
    ],
)
def test_how_much_is_left_of_the_window(seen: list[Point], left: timedelta) -> None:
    assert left_of_window(POLICY, seen) == left


@pytest.mark.parametrize(
    "latest, now_s, recent",
    [
        ([300], 300.0, True),
        ([300], 420.0, True),
        ([300], 421.0, False),
        ([300], 0.0, True),
        ([300, 420], 0.0, True),
        ([300, 430], 0.0, False),
    ],
    ids=["now", "a while ago", "long ago", "a clock ahead", "about the same time", "one lags far behind"],
)
def test_only_what_tells_of_now_is_recent(latest: list[int], now_s: float, recent: bool) -> None:
    assert are_recent([points(3.0, end=end) for end in latest], now_s) is recent


def test_what_is_never_below_nothing_is_never_idle() -> None:
    assert not may_be_idle(UtilizationPolicy(min_gpu_utilization=0, time_window=300), points(0.0))


def test_the_reason_tells_the_busiest_card_of_all_jobs_in_the_window() -> None:
    jobs = [[*points(90.0), *points(3.0, begin=310, end=640)], points(1.0, 4.25)]
    assert why_idle(POLICY, jobs) == "no GPU was more than 4.25% busy for 5m; `utilization_policy` asks for 10%"


@pytest.mark.parametrize("written", [None, {"min_gpu_utilization": 10, "time_window": "5m"}])
def test_the_policy_is_that_of_the_configuration(written: object) -> None:
    configuration = {"type": "task", "commands": ["true"], "utilization_policy": written}
    assert configuration_of(configuration).utilization_policy == (POLICY if written else None)
