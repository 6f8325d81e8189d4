"""Durations of commands, as multiples of a bare Python, and the rate at which one writes a log."""

import tempfile
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, run

from bench.figures import Figure, Goal, timed
from bench.logs import PRINTED_BYTES, submit_printer
from bench.startup import DSTACK, compared
from dstack.api import Client, Run

LOG_ROUNDS = 5
TASK = "type: task\ncommands: ['true']\n"


def measure_ps(client: Client) -> list[Figure]:
    """`dstack ps`, with a warm server."""
    client.runs.list()
    return [compared("ps", (DSTACK, "ps"), Goal(12, "x"))]


def measure_apply(client: Client) -> list[Figure]:
    """`dstack apply -y` of a task that is over at once, to the end of the run, with a warm server."""
    client.runs.list()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "true.dstack.yml")
        file.write_text(TASK)
        return [compared("apply", (DSTACK, "apply", "-y", "-f", str(file)), Goal(20, "x"))]


def measure_logs(client: Client) -> list[Figure]:
    """Megabytes a second (10^6 bytes) of `dstack logs RUN > file`, beside the Python API that writes the same file."""
    printed = submit_printer(client)
    for _ in printed.changes():
        pass
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "log")
        rounds = [
            (timed(lambda: _command(printed, file))(), timed(lambda: _api(printed, file))()) for _ in range(LOG_ROUNDS)
        ]
    command, api = (PRINTED_BYTES / median(seconds) / 1e6 for seconds in zip(*rounds, strict=True))
    return [Figure("logs", command, "MB/s", Goal(0.7, "x", at_least=True), api)]


def _command(printed: Run, file: Path) -> None:
    with file.open("wb") as output:
        run((DSTACK, "logs", printed.name), check=True, stdin=DEVNULL, stdout=output)
    assert file.stat().st_size == PRINTED_BYTES
    file.unlink()


def _api(printed: Run, file: Path) -> None:
    with file.open("wb") as output:
        for chunk in printed.logs():
            output.write(chunk)
    assert file.stat().st_size == PRINTED_BYTES
    file.unlink()
