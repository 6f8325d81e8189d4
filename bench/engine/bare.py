"""The baselines of a loaded server: bare SQLite that commits the same rows, a bare JSON loop over the same answer."""

import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import timed

RUNS = 1000
JSON_ROUNDS = 5
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL")
"""As the server sets them."""

Row = tuple[str, tuple[Any, ...]]
"""A row, after the name of its table."""


@dataclass(frozen=True, slots=True)
class Commits:
    """The speed of bare commits."""

    runs_per_s: float
    cpu_ms_per_run: float


def commit_submits(database: Path) -> Commits:
    """Commit the rows of the newest runs of a server, as they are when submitted: one commit for each run."""
    return _commit(database, [[first] for first, *_ in _lives(database)])


def commit_lives(database: Path) -> Commits:
    """Commit the rows of the newest runs of a server, from submit to end: one commit for each event."""
    return _commit(database, list(_lives(database)))


def json_ms(answer: object) -> float:
    """Return the milliseconds that plain Python takes to write an answer as JSON and to read it."""
    return median(timed(lambda: json.loads(json.dumps(answer)))() for _ in range(JSON_ROUNDS)) * 1000


_EVENTS = """
SELECT CASE object_kind WHEN 'job' THEN object_id END, * FROM events WHERE run_id = ? ORDER BY seq
"""
"""Each with the id of its job, if it is about a job."""


def _lives(database: Path) -> Iterator[list[list[Row]]]:
    """Yield the newest runs, each as its commits: all rows with the first event, the changed row with the others."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source:
        for run in source.execute("SELECT * FROM runs ORDER BY id DESC LIMIT ?", (RUNS,)).fetchall():
            jobs = source.execute("SELECT * FROM jobs WHERE run_id = ?", run[:1]).fetchall()
            rows: dict[str | None, Row] = {None: ("runs", run), **{job[0]: ("jobs", job) for job in jobs}}
            events = source.execute(_EVENTS, run[:1]).fetchall()
            first, *others = ((job_id, ("events", tuple(event))) for job_id, *event in events)
            yield [[*rows.values(), first[1]], *([rows[job_id], event] for job_id, event in others)]


def _commit(database: Path, lives: list[list[list[Row]]]) -> Commits:
    with tempfile.TemporaryDirectory(dir=database.parent) as folder, closing(_copy_of(database, Path(folder))) as bare:
        started, cpu = time.monotonic(), time.process_time()
        for life in lives:
            for rows in life:
                with bare:
                    for table, row in rows:
                        bare.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu
    return Commits(len(lives) / seconds, cpu_s / len(lives) * 1000)


def _copy_of(database: Path, folder: Path) -> sqlite3.Connection:
    """Make an empty database with the same tables of runs, jobs and events."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source:
        tables = source.execute(
            "SELECT sql FROM sqlite_master WHERE tbl_name IN ('runs', 'jobs', 'events') AND sql IS NOT NULL"
            " ORDER BY type DESC"  # tables before their indexes
        ).fetchall()
    bare = sqlite3.connect(folder / "bare.db")
    for pragma in PRAGMAS:
        bare.execute(f"PRAGMA {pragma}")
    for (statement,) in tables:
        bare.execute(statement)
    return bare
