"""What it costs to read what jobs use: of the agent's time, every ten seconds."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from socket import socketpair
from statistics import median

from bench.figures import Figure, Goal
from dstack.agent.gpus import found
from dstack.agent.metrics.groups import find_group
from dstack.agent.metrics.sampler import EVERY_S
from dstack.agent.paths import JobFolder, write_json
from dstack.agent.runtimes.process import ProcessRuntime
from dstack.agent.runtimes.spawning import Spawner
from dstack.agent.spawner import Spawned
from dstack.kit.clock import SystemClock

JOBS = 100
READINGS = 20
A_JOB = ["sh", "-c", "sleep 600 & sleep 600 & echo; wait"]


def measure_metrics() -> list[Figure]:
    """A hundred jobs of three processes each, and as many control groups."""
    jobs = [subprocess.Popen(A_JOB, stdout=subprocess.PIPE, start_new_session=True) for _ in range(JOBS)]
    try:
        for job in jobs:
            assert job.stdout is not None
            job.stdout.readline()
        with tempfile.TemporaryDirectory() as root:
            folders = [_folder(Path(root) / str(job.pid), job.pid) for job in jobs]
            spawned = Spawned(jobs[0].pid, socketpair()[0])
            runtime = ProcessRuntime(Spawner(spawned, lambda: spawned), SystemClock(), found.cards)
            processes_s = median(_busy_s(lambda: runtime.usage(folders)) for _ in range(READINGS))
    finally:
        for job in jobs:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()
    figures = [_figure("metrics_of_100_process_jobs", processes_s)]
    if (group := find_group(os.getpid(), "/")) is not None:  # our own will do for that of any container
        groups_s = median(_busy_s(lambda: [group.read() for _ in range(JOBS)]) for _ in range(READINGS))
        figures.append(_figure("metrics_of_100_containers", groups_s))
    return figures


def _figure(name: str, reading_s: float) -> Figure:
    return Figure(name, reading_s / EVERY_S * 100, "% of a core", Goal(1, "% of a core"))


def _folder(path: Path, pid: int) -> JobFolder:
    path.mkdir()
    folder = JobFolder(path)
    write_json(folder.pid, {"pid": pid, "started_at": 0.0})
    return folder


def _busy_s(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
