"""The usage of jobs over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TIME_MAX = 1 << 36
"""Seconds since the epoch: some time in the year 4147."""
NUMBER_MAX = 1 << 40
"""No cores, percent or MiB are as many."""
CARDS_MAX = 64


@dataclass(frozen=True, slots=True)
class GpuPoint:
    """The use of one of a job's GPUs at one time; None for values that it does not report."""

    utilization_percent: float | None
    memory_mib: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """The usage of a job at one time; None for values that cannot be read."""

    at: float
    """Seconds since the epoch by the host's clock, whole milliseconds."""
    cpu_cores: float | None
    """How many cores were busy for it, on average since the point before."""
    memory_mib: float | None
    """The memory that it needs to continue: without cached files that could be read again."""
    gpus: tuple[GpuPoint, ...] = ()
    """Of each of the job's cards, in the order of `JobOrder.gpus`."""


def points_to_json(points: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    """The points of some jobs, as short as they are many."""
    return {
        job_id: [
            [one.at, one.cpu_cores, one.memory_mib, [[gpu.utilization_percent, gpu.memory_mib] for gpu in one.gpus]]
            for one in some
        ]
        for job_id, some in points.items()
    }


def points_of(body: Any) -> dict[str, list[Point]]:
    """The points in a `metrics` frame.

    Raises:
        ValueError: there is something else in it.
    """
    try:
        return {job_id: [_point_of(*one) for one in some] for job_id, some in body.items()}
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"metrics expected: {error}") from error


def _point_of(at: float, cpu_cores: float | None, memory_mib: float | None, gpus: list[list[float | None]]) -> Point:
    if not 0 <= at < TIME_MAX:
        raise ValueError(f"there is no time {at}")
    if len(gpus) > CARDS_MAX:
        raise ValueError(f"no job has {len(gpus)} cards")
    cards = tuple(GpuPoint(_number(utilization), _number(memory)) for utilization, memory in gpus)
    return Point(round(at, 3), _number(cpu_cores), _number(memory_mib), cards)


def _number(value: float | None) -> float | None:
    if value is not None and not 0 <= value < NUMBER_MAX:
        raise ValueError(f"nobody uses {value}")
    return value
