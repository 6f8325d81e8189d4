"""Points wait for a server, and not for ever."""

from dstack.agent.metrics.buffer import POINTS_MAX, Buffer
from dstack.protocol.agent import Point


def point(at: float) -> Point:
    return Point(at, 0.5, 100.0)


def times(points: dict[str, list[Point]]) -> dict[str, list[float]]:
    return {job_id: [one.at for one in some] for job_id, some in points.items()}


def test_what_was_said_on_a_connection_is_not_said_again_there() -> None:
    buffer = Buffer()
    buffer.add({"a": point(10), "b": point(10)})
    buffer.add({"a": point(20)})
    assert times(buffer.later_than({}, 100)) == {"a": [10, 20], "b": [10]}
    assert times(buffer.later_than({"a": 10, "b": 10}, 100)) == {"a": [20]}
    assert times(buffer.later_than({}, 2)) == {"a": [10, 20]}, "the rest in the next frame"


def test_the_next_connection_hears_those_of_the_last_minute_again() -> None:
    buffer = Buffer()
    for at in range(0, 200, 10):
        buffer.add({"a": point(at)})
    buffer.were_said(buffer.later_than({}, 100))
    assert times(buffer.later_than({}, 100)) == {"a": [130, 140, 150, 160, 170, 180, 190]}


def test_without_a_server_the_last_hour_is_kept() -> None:
    buffer = Buffer()
    for number in range(POINTS_MAX + 5):
        buffer.add({"a": point(number)})
    (kept,) = buffer.later_than({}, 10_000).values()
    assert (len(kept), kept[0].at) == (360, 5)


def test_jobs_that_are_forgotten_leave_nothing() -> None:
    buffer = Buffer()
    buffer.add({"a": point(10), "b": point(10)})
    buffer.keep_only({"b"})
    assert list(buffer.later_than({}, 100)) == ["b"] and "a" not in buffer
