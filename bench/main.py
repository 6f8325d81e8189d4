"""`python -m bench.main [GROUP …]`: measure, show a table, then every figure as one JSON line."""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.engines import DockerEngine

from bench.containers import measure_docker_submit_to_first_line, measure_forward, measure_ssh, started_engine
from bench.figures import Figure, table
from bench.home import temporary_home
from bench.idleness import measure_idleness
from bench.metrics import measure_metrics
from bench.runs import measure_lifecycles, measure_submit_to_first_line
from bench.startup import measure_help, measure_imports, measure_server_start
from dstack.api import Client


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement may use."""

    client: Client
    server: Path
    """The server's data folder."""
    engine: DockerEngine | None
    """Started where a group needs one."""

    @property
    def docker(self) -> DockerEngine:
        """The container engine that the agent uses."""
        assert self.engine is not None
        return self.engine


GROUPS: dict[str, Callable[[Bench], list[Figure]]] = {
    "help": lambda bench: measure_help(),
    "import": lambda bench: measure_imports(),
    "server_start": lambda bench: measure_server_start(),
    "submit_to_first_line": lambda bench: measure_submit_to_first_line(bench.client),
    "lifecycles": lambda bench: measure_lifecycles(bench.client),
    "metrics": lambda bench: measure_metrics(),
    "docker": lambda bench: measure_docker_submit_to_first_line(bench.client, bench.docker),
    "ssh": lambda bench: measure_ssh(bench.client, bench.docker),
    "forward": lambda bench: measure_forward(bench.client),
    "idle": lambda bench: measure_idleness(bench.client, bench.server),
}
"""What can be measured, in its order: idleness comes last, when there have been runs."""
IN_CONTAINERS = {"docker", "ssh", "forward"}


def main() -> int:
    """Measure what was asked for, or everything. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.main", description="Measure how fast dstack is.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of: {', '.join(GROUPS)} (default: all)")
    wanted = parser.parse_args().groups or list(GROUPS)
    if unknown := [name for name in wanted if name not in GROUPS]:
        parser.error(f"there is no group `{unknown[0]}`; there are: {', '.join(GROUPS)}")
    figures = []
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home())
        engine = stack.enter_context(started_engine()) if IN_CONTAINERS.intersection(wanted) else None
        client = Client.from_config()
        stack.callback(client.close)
        bench = Bench(client, home / ".dstack" / "server", engine)
        for name in wanted:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            figures += GROUPS[name](bench)
    print(table(figures), *(one.to_json() for one in figures), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
