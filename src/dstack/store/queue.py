"""The queue: which jobs wait for a place, in which order. The writer keeps it in memory from one commit to the next."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from typing import TypeAlias

from sqlalchemy import select

from dstack.domain.objects import Job, Run
from dstack.protocol.statuses import JobStatus
from dstack.store.objects import find_job, find_run
from dstack.store.tables import jobs, runs
from dstack.store.tx import Tx

_Key: TypeAlias = tuple[int, datetime, str, int, int, str]
"""Higher priority first, then who waited longest; the nodes of a gang follow each other."""

_WAITS = (jobs.c.status == JobStatus.SUBMITTED) & jobs.c.stop_asked.is_(None) & runs.c.stop_asked.is_(None)
_QUEUE = (
    select(runs.c.priority, runs.c.submitted_at, jobs.c.run_id, jobs.c.replica, jobs.c.node, jobs.c.id)
    .join(runs, runs.c.id == jobs.c.run_id)
    .where(_WAITS)
)
_QUEUED_RUNS = (
    select(runs.c.id)
    .join(jobs, runs.c.id == jobs.c.run_id)
    .where(_WAITS)
    .order_by(runs.c.priority.desc(), runs.c.submitted_at, runs.c.id)
)


@dataclass(slots=True)
class _Queue:
    order: list[_Key]
    keys: dict[str, _Key] = field(default_factory=dict)
    """By the job's id."""


def of(tx: Tx) -> Iterator[Job]:
    """The jobs that wait for a place, head first."""
    for key in _queue_of(tx).order:
        job = find_job(tx, key[-1])
        assert job is not None, "a queued job is on record"
        yield job


def ahead_of(tx: Tx, priority: int) -> list[str]:
    """The ids of the jobs that would stand before one that is submitted now, head first."""
    return [key[-1] for key in takewhile(lambda key: key[0] <= -priority, _queue_of(tx).order)]


def is_empty(tx: Tx) -> bool:
    """Whether nobody waits."""
    return not _queue_of(tx).order


def places(tx: Tx) -> dict[str, int]:
    """The place of every run that waits; the next one has place 1."""
    return {id: place for place, id in enumerate(dict.fromkeys(row.id for row in tx.select(_QUEUED_RUNS)), start=1)}


def update(tx: Tx, job: Job) -> None:
    """The job, or its run, has changed: see whether it waits. Nothing to do while the queue is not in memory."""
    queue: _Queue | None = tx.known.get(("queue", ""))
    run = find_run(tx, job.run_id) if queue is not None else None
    if queue is None or run is None:
        return
    waits = job.status is JobStatus.SUBMITTED and job.stop_asked is None and run.stop_asked is None
    if waits and job.id not in queue.keys:
        key = queue.keys[job.id] = _key_of(run, job)
        insort(queue.order, key)
    elif not waits and (known := queue.keys.pop(job.id, None)) is not None:
        queue.order.remove(known)


def forget(tx: Tx, job: Job) -> None:
    """Take a job off the queue in memory: `update` puts it where it belongs by now."""
    queue: _Queue | None = tx.known.get(("queue", ""))
    if queue is not None and (known := queue.keys.pop(job.id, None)) is not None:
        queue.order.remove(known)


def _key_of(run: Run, job: Job) -> _Key:
    return -run.priority, run.submitted_at, run.id, job.replica, job.node, job.id


def _queue_of(tx: Tx) -> _Queue:
    queue: _Queue | None = tx.known.get(("queue", ""))
    if queue is None:
        rows = tx.select(_QUEUE)
        order = sorted((-row[0], *tuple(row)[1:]) for row in rows)
        queue = _Queue(order, {key[-1]: key for key in order})
        tx.known["queue", ""] = queue
    return queue
