"""`python -m bench.main [GROUP …]`: measure, show a table, then every figure as one JSON line."""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Figure, table
from bench.home import temporary_home
from bench.idleness import measure_idleness
from bench.logs import measure_log_throughput
from bench.runs import measure_lifecycles, measure_submit_to_first_line
from bench.startup import measure_help, measure_imports, measure_server_start
from dstack.api import Client


def groups(client: Client, server: Path) -> dict[str, Callable[[], list[Figure]]]:
    """What can be measured, in its order: idleness comes last, when there have been runs."""
    return {
        "help": measure_help,
        "import": measure_imports,
        "server_start": measure_server_start,
        "submit_to_first_line": lambda: measure_submit_to_first_line(client),
        "log_throughput": lambda: measure_log_throughput(client),
        "lifecycles": lambda: measure_lifecycles(client),
        "idle": lambda: measure_idleness(client, server),
    }


def main() -> int:
    """Measure what was asked for, or everything. Returns the exit code."""
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home())
        client = Client.from_config()
        stack.callback(client.close)
        known = groups(client, home / ".dstack" / "server")
        parser = argparse.ArgumentParser(prog="python -m bench.main", description="Measure how fast dstack is.")
        parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of: {', '.join(known)} (default: all)")
        wanted = parser.parse_args().groups or list(known)
        if unknown := [name for name in wanted if name not in known]:
            parser.error(f"there is no group `{unknown[0]}`; there are: {', '.join(known)}")
        figures = []
        for name in wanted:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            figures += known[name]()
    print(table(figures), *(one.to_json() for one in figures), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
