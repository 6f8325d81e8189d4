"""`python -m bench.proxy.main`: the data plane beside other proxies, in one run on the same replica."""

import asyncio
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Figure, Goal, table
from bench.proxy import changes
from bench.proxy.load import Load, requests, streams
from bench.proxy.subjects import STARTERS, Bench, Subject, missing

ROUNDS = 3
CONNECTIONS = 64
OURS = "ours, uvloop"
Loads = dict[tuple[str, str], Load]


def main() -> int:
    """Measure, and show a table. Returns the exit code: 1 where nothing could be measured."""
    if lacking := [program for program in ("nginx", "wrk") if missing(program)]:
        print(f"nothing measured: {' and '.join(lacking)} not installed", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        bench = Bench(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dstack-bench-"))), stack)
        figures = live(bench)
        subjects, left_out = started(bench)
        loads = measured(subjects, Subject("direct", 0, f"http://127.0.0.1:{bench.replica}/x", ""))
        figures = [*figures, *compared(loads, [subject.name for subject in subjects])]
    print(table(figures), *left_out, *(one.to_json() for one in figures), sep="\n")
    return 0


def started(bench: Bench) -> tuple[list[Subject], list[str]]:
    """Start all proxies that this machine has; return them, and a line for each that it lacks."""
    subjects, left_out = [], []
    for name, (program, start) in STARTERS.items():
        if missing(program):
            left_out.append(f"left out: {name} ({program} not installed)")
        else:
            subjects.append(start(bench))
    return subjects, left_out


def measured(subjects: list[Subject], direct: Subject) -> Loads:
    """Measure all subjects by turns; return the medians."""
    rounds: dict[tuple[str, str], list[Load]] = {}
    for turn in range(ROUNDS):
        print(f"round {turn + 1} of {ROUNDS} …", file=sys.stderr, flush=True)
        rounds.setdefault(("direct", "c1"), []).append(requests(direct, 1))
        for subject in subjects:
            rounds.setdefault((subject.name, "c1"), []).append(requests(subject, 1))
            rounds.setdefault((subject.name, "c64"), []).append(requests(subject, CONNECTIONS))
            rounds.setdefault((subject.name, "streams"), []).append(asyncio.run(streams(subject)))
    return {key: _median(loads) for key, loads in rounds.items()}


def _median(loads: list[Load]) -> Load:
    return Load(
        statistics.median(load.cpu_us for load in loads),
        statistics.median(load.p50_us for load in loads),
        sum(load.count for load in loads),
        sum(load.failed for load in loads),
    )


GOALS = {
    ("c64", "nginx"): Goal(1.6, "x"),
    ("c64", "FastAPI + httpx"): Goal(1 / 40, "x"),
    ("c1", "nginx"): Goal(2, "x"),
    ("streams", "nginx"): Goal(1.4, "x"),
}


def compared(loads: Loads, names: list[str]) -> list[Figure]:
    """Return each subject's figures beside nginx's, and the goals of ours."""
    figures = []
    direct_us = loads["direct", "c1"].p50_us
    for name in names:
        goals = GOALS if name == OURS else {}
        nginx = {kind: loads["nginx", kind] for kind in ("c1", "c64", "streams")}
        added_us, nginx_us = loads[name, "c1"].p50_us - direct_us, nginx["c1"].p50_us - direct_us
        figures += [
            _figure(
                f"CPU/request, {name}", loads[name, "c64"].cpu_us, nginx["c64"].cpu_us, goals.get(("c64", "nginx"))
            ),
            _figure(f"added p50 at c=1, {name}", added_us, nginx_us, goals.get(("c1", "nginx"))),
            _figure(
                f"CPU/token, {name}",
                loads[name, "streams"].cpu_us,
                nginx["streams"].cpu_us,
                goals.get(("streams", "nginx")),
            ),
        ]
        failed = sum(loads[name, kind].failed for kind in ("c1", "c64", "streams"))
        figures.append(Figure(f"failed, {name}", failed, "", Goal(0, "") if name == OURS else None))
    peer = loads.get(("FastAPI + httpx", "c64"))
    if peer is not None:
        goal = GOALS["c64", "FastAPI + httpx"]
        figures.append(
            _figure("CPU/request, ours beside FastAPI + httpx", loads[OURS, "c64"].cpu_us, peer.cpu_us, goal)
        )
    return figures


def _figure(name: str, value: float, baseline: float, goal: Goal | None) -> Figure:
    return Figure(name, value, "µs", goal, baseline)


def live(bench: Bench) -> list[Figure]:
    """Measure changes of routes."""
    print("changes of routes …", file=sys.stderr, flush=True)
    effect = changes.measure(bench, bench.ours("uvloop"))
    return [
        Figure("a change is live, median", effect.median_ms, "ms", Goal(20, "ms")),
        Figure("a change is live, worst", effect.worst_ms, "ms"),
        Figure(f"failed of {effect.requests} requests and 200 streams", effect.failed, "", Goal(0, "")),
    ]


if __name__ == "__main__":
    sys.exit(main())
