"""`python -m bench.engine.main [GROUP …]`: measure a server under load, show a table, then one JSON line a figure."""

import argparse
import sys
from collections.abc import Callable

from bench.engine.fleet import JOBS_PER_INSTANCE
from bench.engine.load import Load
from bench.engine.world import tell, temporary_world
from bench.figures import Figure, table

JOBS = 10_000
SECONDS = 10.0
GROUPS: dict[str, Callable[[Load], list[Figure]]] = {
    "rss": Load.rss,
    "cpu": Load.cpu,
    "ps": Load.ps,
    "exits": Load.exits,
    "lives": Load.lives,
    "recovery": Load.recovery,
}
"""What can be measured of a filled server, in its order: what disturbs most comes last."""


def measure(jobs: int, seconds: float, groups: list[str]) -> list[Figure]:
    """Fill a server with jobs, and measure these groups.

    Args:
        jobs: how many are active; each machine takes ten.
        seconds: how long to watch what has no end of its own.
    """
    with temporary_world(-(-jobs // JOBS_PER_INSTANCE)) as world:
        load = Load(world, jobs, seconds)
        tell("filling …")
        figures = load.fill()
        for name in groups:
            tell(f"measuring {name} …")
            figures += GROUPS[name](load)
    return figures


def main() -> int:
    """Measure what was asked for, or everything. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine.main", description="Measure a server under load.")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"how many are active (default: {JOBS})")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of: {', '.join(GROUPS)} (default: all)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.groups if name not in GROUPS]:
        parser.error(f"there is no group `{unknown[0]}`; there are: {', '.join(GROUPS)}")
    figures = measure(arguments.jobs, SECONDS, arguments.groups or list(GROUPS))
    print(table(figures), *(one.to_json() for one in figures), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
