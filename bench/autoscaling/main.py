"""`python -m bench.autoscaling.main [TRACE …]`: compare the rule that scales services with the plain one.

Time is virtual, the traffic is made up, and the rule is the server's own. It sees the points that the store would keep.
Requests wait in one central queue, or in queues of the replicas, to which the least busy replica's gets each request;
in both, those that find no ready replica wait at the data plane.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

from bench.autoscaling.rules import OURS, PLAIN, Subject, rules_of
from bench.autoscaling.traces import HELD_OUT, TUNING, Trace, requests_of
from bench.autoscaling.world import Outcome, World
from bench.figures import Figure, Goal

SEEDS, HELD_OUT_SEEDS = (1, 2, 3), (11, 12, 13)
QUEUES = {"central": True, "replicas": False}
GOALS = {
    ("spike", "waited"): Goal(25, "%"),
    ("spike", "replica_hours"): Goal(1.35, "x"),
    ("daily", "waited"): Goal(1, "x"),
    ("daily", "replica_hours"): Goal(1.1, "x"),
}
"""For one central queue. Beside them, no request is dropped there."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a bench."""

    trace: Trace
    seed: int
    subject: Subject
    is_central: bool

    def run(self) -> Outcome:
        """Return its outcome."""
        rules = rules_of(self.trace.minimum)
        requests = requests_of(self.trace, self.seed)
        look = self.subject.look_of(rules)
        world = World(requests, rules.minimum, look, is_woken=self.subject.is_woken, is_central=self.is_central)
        return world.run(self.trace.length_s)


def measure(traces: Sequence[Trace], seeds: Sequence[int]) -> dict[tuple[str, str], list[Figure]]:
    """Return the figures by trace and place of the queues: the means of all seeds, or the first alone in replicas."""
    subjects = (OURS, PLAIN)
    some = {"central": seeds, "replicas": seeds[:1]}
    keys = [(*key, seed) for key in product(traces, QUEUES, subjects) for seed in some[key[1]]]
    cases = [Case(trace, seed, subject, QUEUES[queue]) for trace, queue, subject, seed in keys]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        outcomes = dict(zip(keys, pool.map(Case.run, cases), strict=True))
    return {
        (trace.name, queue): figures_of(
            trace.name,
            queue,
            *([outcomes[trace, queue, subject, seed] for seed in some[queue]] for subject in subjects),
        )
        for trace, queue in product(traces, QUEUES)
    }


def figures_of(trace: str, queue: str, ours: Sequence[Outcome], plain: Sequence[Outcome]) -> list[Figure]:
    """Return the means of some outcomes, with those of the plain rule as baseline."""
    return [
        Figure(
            f"{trace}_{queue}_{name}",
            statistics.mean(map(value, ours)),
            unit,
            goal_of(trace, name) if QUEUES[queue] else None,
            statistics.mean(map(value, plain)),
        )
        for name, unit, value in (
            ("waited", "%", lambda one: 100 * one.waited_share),
            ("p95", "s", lambda one: one.p95_s),
            ("dropped", "", lambda one: one.dropped),
            ("replica_hours", "h", lambda one: one.replica_s / 3600),
            ("decisions", "", lambda one: one.decisions),
        )
    ]


def goal_of(trace: str, name: str) -> Goal | None:
    """Return the goal of a figure, if there is one."""
    return Goal(0, "") if name == "dropped" else GOALS.get((trace.removesuffix("-again"), name))


def table(results: dict[tuple[str, str], list[Figure]]) -> str:
    """Return a line for each trace and place of the queues. Figures of the plain rule follow in brackets."""
    head = ("trace", "queues", "waited > 1 s %", "p95 s", "dropped", "replica-hours", "ratio", "decisions", "missed")
    rows: list[tuple[str, ...]] = [head]
    for (trace, queue), figures in results.items():
        cells = [f"{one.value:.1f} ({one.baseline:.1f})" for one in figures]
        missed = [f"{one.name.split('_', 2)[2]} {one.goal}" for one in figures if one.meets_goal is False]
        rows.append((trace, queue, *cells[:4], f"{figures[3].ratio:.2f}", cells[4], ", ".join(missed)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    """Measure, and return the exit code: 1 where a goal is missed."""
    names = [trace.name for trace in (*TUNING, *HELD_OUT)]
    parser = argparse.ArgumentParser(prog="python -m bench.autoscaling.main", description="Compare rules that scale.")
    parser.add_argument("traces", nargs="*", metavar="TRACE", help=f"some of: {', '.join(names)} (default: all)")
    wanted = parser.parse_args().traces or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no trace `{unknown[0]}`; there are: {', '.join(names)}")
    figures: list[Figure] = []
    for title, traces, seeds in (
        ("Traces that the rule was tuned on", TUNING, SEEDS),
        ("Held-out traces: made after the rule was frozen", HELD_OUT, HELD_OUT_SEEDS),
    ):
        if chosen := [trace for trace in traces if trace.name in wanted]:
            results = measure(chosen, seeds)
            print(title, table(results), "", sep="\n", flush=True)
            figures += [one for group in results.values() for one in group]
    print(*(one.to_json() for one in figures), sep="\n")
    return 0 if all(one.meets_goal is not False for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
