"""`python -m bench.replicas.main`: measure two servers on one PostgreSQL database, show a table and JSON lines.

There are 50,000 offers, 1,000 machines in use and 10,000 jobs that wait with 200 requirements. Jobs end and new ones
arrive meanwhile.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.postgres import PostgresServer

from bench.engine.world import tell
from bench.figures import Figure, table
from bench.placement import INSTANCES, JOBS
from bench.replicas.filling import fill
from bench.replicas.load import under_load
from bench.replicas.market import PLACED_EACH
from bench.replicas.report import figures_of_load, figures_of_start
from bench.replicas.world import TOKEN, Replicas

SECONDS = 75.0
FILL_TIMEOUT_S = 600.0


def measure(folder: Path, url: str, instances: int, jobs: int, seconds: float) -> list[Figure]:
    """Start one server on a full queue, then another, and watch both under load.

    Args:
        instances: the number of machines in use.
        jobs: the number of jobs that wait beside them.
        seconds: the length of the load.
    """
    tell("filling …")
    asyncio.run(fill(url, TOKEN, [*range(0, PLACED_EACH * instances, PLACED_EACH), *range(jobs)]))
    with closing(Replicas(folder, url)) as replicas:
        tell("starting a server …")
        replicas.start()
        replicas.wait_for(lambda hosts: hosts["running"] >= instances, FILL_TIMEOUT_S)
        figures = figures_of_start(replicas)
        tell("starting another …")
        replicas.start()
        replicas.share_all(FILL_TIMEOUT_S)
        tell(f"under load for {seconds:g} s …")
        return [*figures, *figures_of_load(replicas, under_load(replicas, seconds))]


def main() -> int:
    """Measure, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas.main", description="Measure two servers.")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"how many wait (default: {JOBS})")
    parser.add_argument("--instances", type=int, default=INSTANCES, help=f"machines in use (default: {INSTANCES})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of load (default: {SECONDS:g})")
    parser.add_argument("--keep", type=Path, help="a folder for the servers' logs and traces (default: none is kept)")
    arguments = parser.parse_args()
    postgres = PostgresServer()
    postgres.start()
    try:
        with tempfile.TemporaryDirectory(prefix="dstack-bench-") as temporary:
            folder = arguments.keep or Path(temporary)
            url = postgres.url(postgres.create())
            figures = measure(folder, url, arguments.instances, arguments.jobs, arguments.seconds)
    finally:
        postgres.stop()
    print(table(figures), *(one.to_json() for one in figures), sep="\n")
    return 0 if all(one.meets_goal is not False for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
