"""CPU time of a list of a hundred runs, beside that of writing the same JSON from prepared dictionaries."""

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.figures import Figure, Goal
from dstack.kit.clock import SystemClock
from dstack.operations import runs
from dstack.operations.context import Context
from dstack.protocol.views import RunPage
from dstack.protocol.wire import encoded
from dstack.store.db import Database
from dstack.store.sqlite import Sqlite
from dstack.store.users import User
from dstack.testing import Cluster

RUNS = 100
ROUNDS = 31
CONFIGURATION = {
    "type": "task",
    "commands": ["python train.py --epochs 10", "echo done"],
    "env": {"WANDB_PROJECT": "digits", "SEED": "1"},
    "ports": ["8000"],
    "resources": {"cpu": "2.."},
    "retry": True,
}


def measure_lists() -> list[Figure]:
    """Measure a list of running runs: one that was asked for before, and one that the server has never read."""
    with Cluster(["aws"]) as cluster:
        for number in range(RUNS):
            cluster.when(f"run-{number}", takes_s=86_400.0)
            cluster.submit(CONFIGURATION, name=f"run-{number}")
        cluster.pass_time(minutes=5)
        database = cluster.world.folder / "server.db"
        return cluster.ask(lambda context, user: _figures(context, user, database))


async def _figures(context: Context, user: User, database: Path) -> list[Figure]:
    prepared = json.loads(encoded(await _page(context, user)))
    assert len(prepared["runs"]) == RUNS
    again_s, bare_s, first_s = [], [], []
    for _ in range(ROUNDS):
        again_s.append(await _busy_s(context, user))
        started = time.process_time()
        json.dumps(prepared)
        bare_s.append(time.process_time() - started)
        just_started = Database(Sqlite(database), SystemClock())
        just_started.open()
        first_s.append(await _busy_s(replace(context, db=just_started), user))
        await just_started.close()
    again_ms, bare_ms, first_ms = (median(some) * 1000 for some in (again_s, bare_s, first_s))
    return [
        Figure("list_100_runs_cpu", again_ms, "ms", Goal(5, "x"), bare_ms),
        Figure("list_100_runs_cpu_first", first_ms, "ms", baseline=bare_ms),
    ]


async def _page(context: Context, user: User) -> RunPage:
    return await runs.list_page(context, user, "main", finished_too=True, limit=RUNS, before=None)


async def _busy_s(context: Context, user: User) -> float:
    """Return the CPU seconds of one list. In a made-up world all of it is done in this thread."""
    started = time.process_time()
    encoded(await _page(context, user))
    return time.process_time() - started
