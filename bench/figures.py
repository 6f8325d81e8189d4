"""A measured figure, and how it is shown."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """How far a figure may go."""

    limit: float
    unit: str
    """That of the figure, or `x` where the ratio to the baseline counts."""
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured."""

    name: str
    value: float
    unit: str
    goal: Goal | None = None
    baseline: float | None = None
    """What the bare thing takes, in the same unit."""

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the baseline; None without one."""
        return self.value / self.baseline if self.baseline else None

    @property
    def meets_goal(self) -> bool | None:
        """None where there is no goal."""
        if self.goal is None:
            return None
        judged = self.ratio if self.goal.unit == "x" else self.value
        assert judged is not None, f"the goal of `{self.name}` is a ratio, and it has no baseline"
        return judged >= self.goal.limit if self.goal.at_least else judged <= self.goal.limit

    def to_json(self) -> str:
        """One line for programs."""
        return json.dumps(
            {
                "name": self.name,
                "value": _rounded(self.value),
                "unit": self.unit,
                "baseline": _rounded(self.baseline),
                "ratio": _rounded(self.ratio),
                "goal": str(self.goal) if self.goal else None,
            }
        )


def table(figures: Sequence[Figure]) -> str:
    """All figures, for people."""
    verdicts = {None: "", True: "met", False: "missed"}
    rows = [("figure", "value", "baseline", "ratio", "goal", "")]
    for one in figures:
        baseline = "" if one.baseline is None else f"{_rounded(one.baseline):g} {one.unit}"
        ratio = "" if one.ratio is None else f"{_rounded(one.ratio):g} x"
        goal = "" if one.goal is None else str(one.goal)
        rows.append((one.name, f"{_rounded(one.value):g} {one.unit}", baseline, ratio, goal, verdicts[one.meets_goal]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def medians_ms(subject: Callable[[], float], baseline: Callable[[], float], rounds: int) -> tuple[float, float]:
    """The medians of two things, measured by turns after one unmeasured turn of each.

    Args:
        subject: does the thing, and returns the seconds it took; `baseline` likewise.
    """
    pairs = [(subject(), baseline()) for _ in range(rounds + 1)][1:]
    subjects, baselines = zip(*pairs, strict=True)
    return statistics.median(subjects) * 1000, statistics.median(baselines) * 1000


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """`work`, returning the seconds it takes."""

    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def _rounded(value: float | None) -> float | None:
    """Three digits say all that a measurement knows."""
    return None if value is None else float(f"{value:.3g}")
