"""How fast output travels: from what a job prints to the server's store, and from there to a client."""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.figures import Figure, Goal, timed
from dstack.api import Client, Run, Task

LINE = b"x" * 99 + b"\n"
LINES_AT_ONCE = 1000
PRINTED_BYTES = 200_000_000
COPY_AT_ONCE_BYTES = 1 << 18
ROUNDS = 3


def measure_log_throughput(client: Client) -> list[Figure]:
    """Megabytes a second (10^6 bytes), from `submit` to the end of the run: it ends when its last byte is stored.

    Beside it what copying a file of the same size takes in plain Python. Then the same log again, to a client.
    """
    rounds = [(*_round(client), PRINTED_BYTES / timed(_copy)() / 1e6) for _ in range(ROUNDS)]
    stored, read, copied = (median(figures) for figures in zip(*rounds, strict=True))
    return [
        Figure("log_throughput", stored, "MB/s", Goal(50, "MB/s", at_least=True), copied),
        Figure("log_read", read, "MB/s", None, copied),
    ]


def _round(client: Client) -> tuple[float, float]:
    started = time.perf_counter()
    run = submit_printer(client)
    for _ in run.changes():
        pass
    stored_s = time.perf_counter() - started
    read_s = timed(lambda: _read(run))()
    return PRINTED_BYTES / stored_s / 1e6, PRINTED_BYTES / read_s / 1e6


def submit_printer(client: Client) -> Run:
    """Submit a run that prints `PRINTED_BYTES`."""
    times = PRINTED_BYTES // (len(LINE) * LINES_AT_ONCE)
    program = f"import sys\nfor _ in range({times}): sys.stdout.buffer.write({LINE!r} * {LINES_AT_ONCE})"
    return client.runs.submit(Task(commands=[f"{sys.executable} - <<'END'\n{program}\nEND"]))


def _read(run: Run) -> None:
    assert sum(map(len, run.logs())) == PRINTED_BYTES


def _copy() -> None:
    """Print as the job does, and copy what was printed into a second file."""
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder, "printed")
        with printed.open("wb") as file:
            for _ in range(PRINTED_BYTES // (len(LINE) * LINES_AT_ONCE)):
                file.write(LINE * LINES_AT_ONCE)
        with printed.open("rb") as source, Path(folder, "stored").open("wb") as target:
            while piece := source.read(COPY_AT_ONCE_BYTES):
                target.write(piece)
