"""`python -m bench.main [GROUP …]`: measure, show a table, then every figure as one JSON line.

A group that needs a program or a container engine which this machine lacks is left out, with the reason.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.engines import DockerEngine

from bench.commands import measure_apply, measure_logs, measure_ps
from bench.containers import (
    SSHD,
    NoEngineError,
    measure_docker_submit_to_first_line,
    measure_forward,
    measure_ssh,
    started_engine,
)
from bench.figures import Figure, table
from bench.home import temporary_home
from bench.idleness import measure_idleness
from bench.logs import measure_log_throughput
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


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together."""

    measure: Callable[[Bench], list[Figure]]
    programs: tuple[str, ...] = ()
    """Beyond what the README asks for."""
    in_containers: bool = False


def _lists() -> list[Figure]:
    from bench.lists import measure_lists  # imports the whole server, which the other groups need not pay for

    return measure_lists()


def _placement() -> list[Figure]:
    from bench.placement import measure_placement  # likewise

    return measure_placement()


GROUPS = {
    "help": Group(lambda bench: measure_help()),
    "import": Group(lambda bench: measure_imports()),
    "ps": Group(lambda bench: measure_ps(bench.client)),
    "apply": Group(lambda bench: measure_apply(bench.client)),
    "server_start": Group(lambda bench: measure_server_start()),
    "submit_to_first_line": Group(lambda bench: measure_submit_to_first_line(bench.client)),
    "log_throughput": Group(lambda bench: measure_log_throughput(bench.client)),
    "logs": Group(lambda bench: measure_logs(bench.client)),
    "lifecycles": Group(lambda bench: measure_lifecycles(bench.client)),
    "lists": Group(lambda bench: _lists()),
    "placement": Group(lambda bench: _placement()),
    "metrics": Group(lambda bench: measure_metrics()),
    "docker": Group(lambda bench: measure_docker_submit_to_first_line(bench.client, bench.docker), in_containers=True),
    "ssh": Group(lambda bench: measure_ssh(bench.client, bench.docker), ("ssh",), in_containers=True),
    "forward": Group(
        lambda bench: measure_forward(bench.client), ("ssh", "ssh-keygen", SSHD, "busybox"), in_containers=True
    ),
    "idle": Group(lambda bench: measure_idleness(bench.client, bench.server)),
}
"""What can be measured, in its order: idleness comes last, when there have been runs."""


def main() -> int:
    """Measure what was asked for, or everything. Returns the exit code: 1 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.main", description="Measure how fast dstack is.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of: {', '.join(GROUPS)} (default: all)")
    wanted = parser.parse_args().groups or list(GROUPS)
    if unknown := [name for name in wanted if name not in GROUPS]:
        parser.error(f"there is no group `{unknown[0]}`; there are: {', '.join(GROUPS)}")
    figures, left_out = measure(wanted)
    print(table(figures), *left_out, *(one.to_json() for one in figures), sep="\n")
    return 0 if figures else 1


def measure(names: Sequence[str]) -> tuple[list[Figure], list[str]]:
    """Return the figures of these groups, and a line for each reason why some are left out."""
    reasons: dict[str, str] = {}
    figures = []
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home())
        engine = None
        if contained := [name for name in names if GROUPS[name].in_containers]:
            try:
                engine = stack.enter_context(started_engine())
            except NoEngineError as error:
                reasons = dict.fromkeys(contained, str(error))
        client = Client.from_config()
        stack.callback(client.close)
        bench = Bench(client, home / ".dstack" / "server", engine)
        for name in names:
            if reason := reasons.get(name) or lack_of(GROUPS[name]):
                reasons[name] = reason
                continue
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            figures += GROUPS[name].measure(bench)
    return figures, left_out(reasons)


def lack_of(group: Group) -> str:
    """Return which programs of a group this machine lacks, in words; empty where it has all."""
    missing = [program for program in group.programs if shutil.which(program) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


def left_out(reasons: dict[str, str]) -> list[str]:
    """Return one line for each reason, with the groups it holds for."""
    lines: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        lines.setdefault(reason, []).append(name)
    return [f"left out: {', '.join(names)} ({reason})" for reason, names in lines.items()]


if __name__ == "__main__":
    sys.exit(main())
