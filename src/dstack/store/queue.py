"""The queue: which jobs wait for a place, in which order. The writer keeps it in memory from one commit to the next.

It is kept by gangs, each in the line of those with the same requirements: a pass skips a line that waits without
reading its jobs.
"""

import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from typing import Any, TypeAlias

from sqlalchemy import Row, Text, bindparam, cast, select

from dstack.domain.objects import Job, Run
from dstack.domain.offers import Demand, demand_of_json
from dstack.domain.placement import Gang, Line
from dstack.protocol.statuses import JobStatus
from dstack.store import wakes
from dstack.store.objects import IDS_AT_ONCE, find_job, find_run, jobs_by_id
from dstack.store.tables import jobs, runs
from dstack.store.tx import Tx, Versioned

_Key: TypeAlias = tuple[int, datetime, str, int]
"""Higher priority first, then the earlier submit; then run and replica."""

_WAITS = (jobs.c.status == JobStatus.SUBMITTED) & jobs.c.stop_asked.is_(None) & runs.c.stop_asked.is_(None)
_QUEUE = (
    select(
        *(runs.c.priority, runs.c.submitted_at, jobs.c.run_id, jobs.c.replica, jobs.c.node, jobs.c.id),
        jobs.c.project_id,
        cast(jobs.c.demand, Text),  # there are many jobs and few demands: only those are parsed
        *(jobs.c.version, runs.c.version),
    )
    .join(runs, runs.c.id == jobs.c.run_id)
    .where(_WAITS)
)
_OF_THESE = _QUEUE.where(jobs.c.id.in_(bindparam("ids", expanding=True)))
_VERSIONS = (
    select(jobs.c.id, jobs.c.version, runs.c.version.label("run_version"))
    .join(runs, runs.c.id == jobs.c.run_id)
    .where(_WAITS)
)
_QUEUED_RUNS = (
    select(runs.c.id)
    .join(jobs, runs.c.id == jobs.c.run_id)
    .where(_WAITS)
    .order_by(runs.c.priority.desc(), runs.c.submitted_at, runs.c.id)
)


@dataclass
class _Queue(Versioned):
    order: list[_Key] = field(default_factory=list)
    """The keys of all gangs, sorted."""
    gangs: dict[_Key, Gang] = field(default_factory=dict)
    nodes: dict[str, tuple[_Key, int]] = field(default_factory=dict)
    """The gang and the node of each job, by the job's id."""
    lines: dict[tuple[str, Demand], Line] = field(default_factory=dict)
    of_line: dict[Line, list[_Key]] = field(default_factory=dict)
    """The keys of the gangs of each line, sorted."""
    of_run: dict[str, Line] = field(default_factory=dict)
    """The line of each run that waits."""
    versions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Those of each job and its run, by the job's id."""

    def add(self, key: _Key, node: int, id: str, line: Line, versions: tuple[int, int]) -> None:
        self.versions[id] = versions
        gang = self.gangs.get(key)
        if gang is None:
            gang = self.gangs[key] = Gang(key[2], line, key)
            self.of_run[gang.run_id] = line
            insort(self.order, key)
            insort(self.of_line.setdefault(line, []), key)
        self.nodes[id] = key, node
        if not gang.ids or self.nodes[gang.ids[-1]][1] <= node:
            gang.ids.append(id)
        else:
            insort(gang.ids, id, key=lambda one: self.nodes[one][1])

    def remove(self, id: str) -> None:
        if (known := self.nodes.pop(id, None)) is None:
            return
        del self.versions[id]
        key, _ = known
        gang = self.gangs[key]
        gang.ids.remove(id)
        if not gang.ids:
            del self.gangs[key]
            self.of_run.pop(gang.run_id, None)
            _delete(self.order, key)
            _delete(self.of_line[gang.line], key)
            if not self.of_line[gang.line]:
                del self.of_line[gang.line]
                self.lines.pop((gang.line.project_id, gang.line.demand), None)

    def line_of(self, project_id: str, demand: Demand) -> Line:
        line = self.lines.get((project_id, demand))
        if line is None:
            line = self.lines[project_id, demand] = Line(project_id, demand)
        return line


def _delete(keys: list[_Key], key: _Key) -> None:
    del keys[bisect_left(keys, key)]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queue, or a part of it, as a pass reads it."""

    tx: Tx
    until: int | None = None
    """The key's priority after which the part ends."""

    def gangs(self, skipped: Container[Line]) -> Iterator[Gang]:
        """Return the gangs in order: the heads of all lines compete, and a skipped line leaves as a whole."""
        queue = _queue_of(self.tx)
        heads = []
        for line, keys in queue.of_line.items():
            if line not in skipped:
                heads.append((keys[0], 0, keys, line))
        heapify(heads)
        while heads:
            key, place, keys, line = heads[0]
            if self.until is not None and key[0] > self.until:
                return
            yield queue.gangs[key]
            if place + 1 == len(keys) or line in skipped:
                heappop(heads)
            else:
                heapreplace(heads, (keys[place + 1], place + 1, keys, line))

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
    return Waiting(tx, until=-priority), number


def lines(tx: Tx) -> Mapping[str, Line]:
    """Return the line of each run that waits, by id. Other threads may look into it, also later."""
    return _queue_of(tx).of_run


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
        is_known = job.id in queue.nodes
        queue.remove(job.id)
        if is_known and job.status is not JobStatus.PROVISIONING:  # it leaves what it waited for to those behind it
            wakes.add(tx, "scheduler", "placement")
    elif job.id not in queue.nodes:
        line = queue.line_of(job.project_id, job.demand)
        queue.add(_key_of(run, job), job.node, job.id, line, (job.version, run.version))


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
        queue = tx.known["queue", ""] = _Queue()
        _read(queue, tx.select(_QUEUE).all())
    elif queue.is_stale:
        _compare(tx, queue)
        queue.is_stale = False
    return queue


def _compare(tx: Tx, queue: _Queue) -> None:
    """Bring the queue up to date, after another server has written: only jobs whose versions differ are read."""
    versions = {row.id: (row.version, row.run_version) for row in tx.select(_VERSIONS).all()}
    for id in [id for id, known in queue.versions.items() if versions.get(id) != known]:
        queue.remove(id)
    new = [id for id in versions if id not in queue.versions]
    for start in range(0, len(new), IDS_AT_ONCE):
        _read(queue, tx.select(_OF_THESE, {"ids": new[start : start + IDS_AT_ONCE]}).all())


def _read(queue: _Queue, found: Iterable[Row[Any]]) -> None:
    lines: dict[tuple[str, str], Line] = {}
    rows = [(-row[0], *tuple(row)[1:]) for row in found]
    for priority, at, run_id, replica, node, id, project_id, demand, *versions in sorted(rows, key=lambda row: row[:6]):
        line = lines.get((project_id, demand))
        if line is None:
            line = queue.line_of(project_id, demand_of_json(json.loads(demand)))
            lines[project_id, demand] = line
        queue.add((priority, at, run_id, replica), node, id, line, (versions[0], versions[1]))
