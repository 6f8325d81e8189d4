"""The queue: which jobs wait for a place, in which order. The writer keeps it in memory from one commit to the next.

It is kept by gangs, each in the line of those with the same requirements: a pass skips a line that waits without
reading its jobs.
"""

import json
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TypeAlias

from sqlalchemy import Text, cast, select

from dstack.domain.objects import Job, Run
from dstack.domain.offers import Demand, demand_of_json
from dstack.domain.placement import Gang, Line
from dstack.protocol.statuses import JobStatus
from dstack.store.objects import find_job, find_run, jobs_by_id
from dstack.store.tables import jobs, runs
from dstack.store.tx import Tx

_Key: TypeAlias = tuple[int, datetime, str, int]
"""Higher priority first, then the earlier submit; then run and replica."""

_WAITS = (jobs.c.status == JobStatus.SUBMITTED) & jobs.c.stop_asked.is_(None) & runs.c.stop_asked.is_(None)
_QUEUE = (
    select(
        *(runs.c.priority, runs.c.submitted_at, jobs.c.run_id, jobs.c.replica, jobs.c.node, jobs.c.id),
        jobs.c.project_id,
        cast(jobs.c.demand, Text),  # there are many jobs and few demands: only those are parsed
    )
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
    order: list[_Key] = field(default_factory=list)
    """The keys of all gangs, sorted."""
    gangs: dict[_Key, Gang] = field(default_factory=dict)
    nodes: dict[str, tuple[_Key, int]] = field(default_factory=dict)
    """The gang and the node of each job, by the job's id."""
    lines: dict[tuple[str, Demand], Line] = field(default_factory=dict)

    def add(self, key: _Key, node: int, id: str, line: Line) -> None:
        gang = self.gangs.get(key)
        if gang is None:
            gang = self.gangs[key] = Gang(key[2], line, key)
            if self.order and key < self.order[-1]:
                insort(self.order, key)
            else:
                self.order.append(key)
        self.nodes[id] = key, node
        if not gang.ids or self.nodes[gang.ids[-1]][1] <= node:
            gang.ids.append(id)
        else:
            insort(gang.ids, id, key=lambda one: self.nodes[one][1])

    def remove(self, id: str) -> None:
        if (known := self.nodes.pop(id, None)) is None:
            return
        key, _ = known
        gang = self.gangs[key]
        gang.ids.remove(id)
        if not gang.ids:
            del self.gangs[key]
            del self.order[bisect_right(self.order, key) - 1]

    def line_of(self, project_id: str, demand: Demand) -> Line:
        line = self.lines.get((project_id, demand))
        if line is None:
            if len(self.lines) > 2 * len(self.gangs) + 100:  # most of them have no gangs any more
                self.lines = {(gang.line.project_id, gang.line.demand): gang.line for gang in self.gangs.values()}
            line = self.lines[project_id, demand] = Line(project_id, demand)
        return line


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queue, or a part of it, as a pass reads it."""

    tx: Tx
    after: _Key | None = None
    """The position after which the part begins."""
    most: int | None = None
    """The number of its gangs."""

    def __iter__(self) -> Iterator[Gang]:
        queue = _queue_of(self.tx)
        start = 0 if self.after is None else bisect_right(queue.order, self.after)
        for key in islice(queue.order, start, self.most):
            yield queue.gangs[key]

    def jobs_of(self, gang: Gang) -> Sequence[Job]:
        """Return the jobs of a gang, by node."""
        if len(gang.ids) > 1:
            return jobs_by_id(self.tx, gang.ids)
        job = find_job(self.tx, gang.ids[0])
        assert job is not None, "a queued job is on record"
        return [job]


def ahead_of(tx: Tx, priority: int) -> tuple[Waiting, int]:
    """Return the part of the queue that would stand before a job that is submitted now, and the number of its jobs."""
    queue = _queue_of(tx)
    most = bisect_right(queue.order, -priority, key=lambda key: key[0])
    number = (
        len(queue.nodes) if most == len(queue.order) else sum(len(queue.gangs[key].ids) for key in queue.order[:most])
    )
    return Waiting(tx, most=most), number


def is_empty(tx: Tx) -> bool:
    """Whether nothing waits."""
    return not _queue_of(tx).order


def places(tx: Tx) -> dict[str, int]:
    """The place of every run that waits; the next one has place 1."""
    return {id: place for place, id in enumerate(dict.fromkeys(row.id for row in tx.select(_QUEUED_RUNS)), start=1)}


def update(tx: Tx, job: Job) -> None:
    """Note that a job, or its run, has changed and may wait now. Does nothing while the queue is not in memory."""
    queue: _Queue | None = tx.known.get(("queue", ""))
    run = find_run(tx, job.run_id) if queue is not None else None
    if queue is None or run is None:
        return
    waits = job.status is JobStatus.SUBMITTED and job.stop_asked is None and run.stop_asked is None
    if not waits:
        queue.remove(job.id)
    elif job.id not in queue.nodes:
        queue.add(_key_of(run, job), job.node, job.id, queue.line_of(job.project_id, job.demand))


def forget(tx: Tx, job: Job) -> None:
    """Take a job off the queue in memory: `update` puts it where it belongs by now."""
    queue: _Queue | None = tx.known.get(("queue", ""))
    if queue is not None:
        queue.remove(job.id)


def _key_of(run: Run, job: Job) -> _Key:
    return -run.priority, run.submitted_at, run.id, job.replica


def _queue_of(tx: Tx) -> _Queue:
    queue: _Queue | None = tx.known.get(("queue", ""))
    if queue is None:
        queue = tx.known["queue", ""] = _read(tx)
    return queue


def _read(tx: Tx) -> _Queue:
    queue = _Queue()
    lines: dict[tuple[str, str], Line] = {}
    rows = [(-row[0], *tuple(row)[1:]) for row in tx.select(_QUEUE)]
    for priority, at, run_id, replica, node, id, project_id, demand in sorted(rows, key=lambda row: row[:6]):
        line = lines.get((project_id, demand))
        if line is None:
            line = queue.line_of(project_id, demand_of_json(json.loads(demand)))
            lines[project_id, demand] = line
        queue.add((priority, at, run_id, replica), node, id, line)
    return queue
