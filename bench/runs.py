"""What runs take: the way to the first line of one, and the whole lives of many."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from bench.figures import Figure, Goal, medians_ms, timed
from dstack.api import Client, Run, Task

ROUNDS = 15
RUNS = 200
WARM_UP_RUNS = 20
LIFE_ROUNDS = 3
SUBMITTERS = 4
ENDS = {"done", "failed", "terminated"}


def measure_submit_to_first_line(client: Client) -> list[Figure]:
    """From `submit` to the first line in the client's hands, with a warm server; a bare shell's beside it."""
    task = Task(commands=["echo hello"])

    def first_line() -> float:
        started = time.perf_counter()
        log = client.runs.submit(task).logs()
        line = next(log)
        seconds = time.perf_counter() - started
        assert line + b"".join(log) == b"hello\n"
        return seconds

    value, baseline = medians_ms(first_line, timed(_bare_line), ROUNDS)
    return [Figure("submit_to_first_line", value, "ms", Goal(150, "ms"), baseline)]


def measure_lifecycles(client: Client) -> list[Figure]:
    """Whole lives a second: from the first `submit` to the end of the last run; a bare shell, one by one, beside it.

    The median of some rounds, with a warm server.
    """
    _live(client, WARM_UP_RUNS)
    rounds = [(RUNS / timed(lambda: _live(client, RUNS))(), RUNS / timed(_bare_lives)()) for _ in range(LIFE_ROUNDS)]
    per_s, bare_per_s = (median(figures) for figures in zip(*rounds, strict=True))
    return [Figure("lifecycles", per_s, "runs/s", Goal(40, "runs/s", at_least=True), bare_per_s)]


def _live(client: Client, runs: int) -> None:
    """Submit all from some threads, and watch the one stream of events until each has ended well."""
    task = Task(commands=["true"])
    events = client.events.follow(after=max((event.seq for event in client.events.list()), default=0))
    with ThreadPoolExecutor(SUBMITTERS) as submitters:

        def submit(_: int) -> Run:
            return client.runs.submit(task)

        submitted = [submitters.submit(submit, number) for number in range(runs)]
        ended: dict[str, str] = {}
        while len(ended) < runs:
            event = next(events)
            if event.kind.startswith("run.") and event.run_id and event.status in ENDS:
                ended[event.run_id] = event.status
    assert ended == {run.result().id: "done" for run in submitted}


def _bare_line() -> None:
    with subprocess.Popen(["sh", "-c", "echo hello"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()


def _bare_lives() -> None:
    for _ in range(RUNS):
        subprocess.run(["sh", "-c", "true"], check=True)
