"""What is on record in a made-up world, read beside the server: every status as it was committed, by whatever code."""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dstack.domain.sharding import shard_of
from dstack.kit.ranges import Range, parse_count
from dstack.kit.units import parse_duration
from dstack.protocol.statuses import RunStatus
from dstack.store.kinds import KINDS
from dstack.testing.behaviours import revision_in
from dstack.testing.time import START


@dataclass(frozen=True, slots=True)
class Note:
    """A status that was committed, or that something was written on behalf of an instance."""

    source: str
    """`row` for an object as it is from now on, `event` for a line of history; a commit may tell of several moves.
    `heard` for what its agent said or what came of an intent. `asked` for a job whose run wants its end. `scaled` for
    a decision about the number of replicas, `traffic` for the requests of which it is made."""
    kind: str
    id: str
    status: str


@dataclass(frozen=True, slots=True)
class JobRow:
    """One attempt as it is on record."""

    id: str
    run_id: str
    run_name: str
    node: int
    attempt: int
    revision: int
    status: str
    reason: str | None
    exit_code: int | None
    instance_id: str | None
    is_finished: bool
    report: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One instance as it is on record; times are virtual seconds."""

    id: str
    status: str
    offer: Mapping[str, Any]
    idle_duration_s: float | None
    finished_at_s: float | None
    reason: str | None
    needed_until_s: float | None
    """When its last job ended, or when it was made where there was none; None while it has jobs."""


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One service as it is on record."""

    id: str
    name: str
    status: str
    deployment: int
    rollout: Mapping[str, Any] | None
    least: int
    most: int
    """The bounds of the number of replicas."""
    scale: "ScaleRow | None"
    down_delay_s: int
    window_s: int
    revised_at_s: float


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """The number of replicas that a service has decided on."""

    asked: int
    since_s: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """A decision about the number of replicas of a service, as history has it."""

    at_s: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """The latest attempt of one replica as it is on record; times are virtual seconds."""

    id: str
    run_id: str
    number: int
    status: str
    is_finished: bool
    deployment: int
    failures: int
    reason: str | None
    stop_asked: str | None
    is_ready: bool
    status_since_s: float
    unready_since_s: float | None
    draining_since_s: float | None
    drained_by: frozenset[str]


_REPLICA = """
SELECT jobs.id, run_id, replica, jobs.status, jobs.finished_at IS NOT NULL, jobs.deployment, jobs.failures,
       jobs.reason, jobs.stop_asked, jobs.status = 'running' AND coalesce(json_extract(report, '$.ready'), 1),
       jobs.status_since, unready_since, draining_since, drained_by
FROM jobs JOIN runs ON runs.id = run_id WHERE runs.type = 'service'
"""
_SERVICE = """
SELECT id, name, status, deployment, rollout, scale, coalesce(json_extract(spec, '$.configuration.replicas'), 1),
       coalesce(json_extract(spec, '$.configuration.scaling'), '{}'),
       (SELECT max(created_at) FROM revisions WHERE run_id = runs.id)
FROM runs WHERE type = 'service' AND
"""

_DECISION = re.compile(r": replicas (\d+) → (\d+)")
DOWN_DELAY, WINDOW = "10m", "1m"
"""Where a service has no other ones."""

_JOB = """
SELECT jobs.id, jobs.run_id, runs.name, jobs.node, jobs.attempt, jobs.revision, jobs.status, jobs.reason,
       jobs.exit_code, jobs.instance_id, jobs.finished_at IS NOT NULL, jobs.report
FROM jobs JOIN runs ON runs.id = jobs.run_id
"""
_INSTANCE = """
SELECT id, status, offer, idle_duration_s, finished_at, reason, created_at,
       (SELECT max(jobs.finished_at) FROM jobs WHERE jobs.instance_id = instances.id),
       (SELECT count(*) FROM jobs WHERE jobs.instance_id = instances.id AND jobs.finished_at IS NULL)
FROM instances
"""


_IN_VAIN = """
SELECT runs.name, max(jobs.nodes) * count(DISTINCT jobs.replica), count(DISTINCT vain.id)
FROM instances AS last JOIN jobs AS own ON own.instance_id = last.id JOIN runs ON runs.id = own.run_id
JOIN jobs ON jobs.run_id = runs.id JOIN instances AS vain ON vain.id = jobs.instance_id
WHERE last.id = ? AND vain.agent_seen_at IS NULL AND vain.finished_at IS NOT NULL
AND vain.created_at BETWEEN last.created_at - ? AND last.created_at
GROUP BY runs.id
"""


class Ledger:
    """Reads the database of a world; what is committed is there at once."""

    def __init__(self, path: Path) -> None:
        self._conn = sqlite3.connect(path, isolation_level=None)
        self._read_up_to = 0

    def close(self) -> None:
        """Let go of the file."""
        self._conn.close()

    def new_notes(self) -> list[Note]:
        """What was committed since the last time, in order."""
        rows = self._conn.execute("SELECT * FROM notes WHERE n > ?", (self._read_up_to,)).fetchall()
        if rows:
            self._read_up_to = rows[-1][0]
        return [Note(*row[1:]) for row in rows]

    def begin_anew(self) -> list[Note]:
        """Take what is there as given: the file has been replaced. Returns the objects as they are."""
        (self._read_up_to,) = self._conn.execute("SELECT coalesce(max(n), 0) FROM notes").fetchone()
        return [
            Note("row", name, *row)
            for name, kind in KINDS.items()
            for row in self._conn.execute(f"SELECT id, status FROM {kind.rows.table.name}")
        ]

    def unfinished(self) -> list[tuple[str, str, str]]:
        """Kind, id and status of every object that has not ended."""
        return [
            (name, *row)
            for name, kind in KINDS.items()
            for row in self._conn.execute(f"SELECT id, status FROM {kind.rows.table.name} WHERE finished_at IS NULL")
        ]

    def job(self, id: str) -> JobRow | None:
        """The job of this id."""
        row = self._conn.execute(f"{_JOB} WHERE jobs.id = ?", (id,)).fetchone()
        return None if row is None else _job_of(row)

    def revision_before(self, job: JobRow) -> int:
        """The number of the revision that a job's run had right before the job was made."""
        query = "SELECT max(number) FROM revisions WHERE run_id = ? AND created_at < ?"
        (submitted_at,) = self._conn.execute("SELECT submitted_at FROM jobs WHERE id = ?", (job.id,)).fetchone()
        (number,) = self._conn.execute(query, (job.run_id, submitted_at)).fetchone()
        return number or 1

    def jobs(self, run_id: str | None = None) -> list[JobRow]:
        """All attempts of all jobs, of one run or of all, by node and attempt."""
        query = f"{_JOB} WHERE ? IN (jobs.run_id, '') ORDER BY jobs.run_id, jobs.node, jobs.attempt"
        return [_job_of(row) for row in self._conn.execute(query, (run_id or "",))]

    def instance(self, id: str) -> InstanceRow | None:
        """The instance of this id."""
        row = self._conn.execute(f"{_INSTANCE} WHERE id = ?", (id,)).fetchone()
        return None if row is None else _instance_of(row)

    def live_instances(self) -> list[InstanceRow]:
        """All whose machines may exist."""
        return [_instance_of(row) for row in self._conn.execute(f"{_INSTANCE} WHERE finished_at IS NULL")]

    def launches_in_vain(self, instance_id: str, within_s: float) -> Iterator[tuple[str, int, int]]:
        """Yield each run with a job on an instance: name, number of jobs, and how many of its machines never started.

        Args:
            within_s: counts the machines that were launched so many seconds before the instance or less.
        """
        for row in self._conn.execute(_IN_VAIN, (instance_id, within_s * 1e6)):
            yield tuple(row)

    def owner_of(self, instance_id: str) -> str | None:
        """The name of the server that sees to an instance; None where it has been forgotten."""
        query = "SELECT hostname FROM replicas JOIN shards ON replica_id = replicas.id WHERE number = ?"
        row = self._conn.execute(query, (shard_of(instance_id),)).fetchone()
        return None if row is None else str(row[0])

    def runs(self) -> dict[str, tuple[str, str, float]]:
        """Name, status, and since when, of every run, by id."""
        rows = self._conn.execute("SELECT id, name, status, status_since FROM runs ORDER BY id")
        return {row[0]: (row[1], row[2], _seconds(row[3])) for row in rows}

    def run_status(self, id: str) -> RunStatus | None:
        """The status of a run; None where it is not on record."""
        row = self._conn.execute("SELECT status FROM runs WHERE id = ?", (id,)).fetchone()
        return RunStatus(row[0]) if row else None

    def retry_of(self, id: str) -> tuple[str, float] | None:
        """The name of a run that waits for its next attempt, and when that is to come."""
        row = self._conn.execute("SELECT name, retry_at FROM runs WHERE id = ?", (id,)).fetchone()
        return (row[0], _seconds(row[1])) if row and row[1] else None

    def is_run_finished(self, id: str) -> bool:
        """Whether the run has ended or is not on record."""
        return self._conn.execute("SELECT 1 FROM runs WHERE id = ? AND finished_at IS NULL", (id,)).fetchone() is None

    def service(self, id: str) -> ServiceRow | None:
        """The service of this id."""
        row = self._conn.execute(f"{_SERVICE} id = ?", (id,)).fetchone()
        return None if row is None else _service_of(row)

    def services(self) -> list[ServiceRow]:
        """All services that have not ended."""
        return [_service_of(row) for row in self._conn.execute(f"{_SERVICE} finished_at IS NULL")]

    def resting(self) -> set[str]:
        """The services that have scaled to zero."""
        rows = self._conn.execute("SELECT id FROM runs WHERE json_extract(scale, '$.asked') = 0")
        return {row[0] for row in rows}

    def scalings(self, id: str) -> list[Scaling]:
        """The decisions about the number of replicas of a service, in order."""
        query = "SELECT at, message FROM events WHERE run_id = ? AND kind = 'run.scaled' ORDER BY seq"
        decided = [(at, _DECISION.search(message)) for at, message in self._conn.execute(query, (id,))]
        return [Scaling(_seconds(at), int(match[1]), int(match[2])) for at, match in decided if match is not None]

    def replica(self, job_id: str) -> ReplicaRow | None:
        """One attempt of a replica; None for a job of another run."""
        row = self._conn.execute(f"{_REPLICA} AND jobs.id = ?", (job_id,)).fetchone()
        return None if row is None else _replica_of(row)

    def replicas(self, run_id: str) -> list[ReplicaRow]:
        """The replicas of a service that have not ended."""
        query = f"{_REPLICA} AND run_id = ? AND jobs.finished_at IS NULL"
        return [_replica_of(row) for row in self._conn.execute(query, (run_id,))]

    def data_planes(self, at_s: float) -> set[str]:
        """The servers that live at a time and have a data plane."""
        query = "SELECT id FROM replicas WHERE has_data_plane AND (expires_at IS NULL OR expires_at > ?)"
        return {row[0] for row in self._conn.execute(query, ((at_s + START.timestamp()) * 1e6,))}

    def revision_named(self, job: JobRow) -> int:
        """The number in the script of the revision that a job was made from: see `revision_in`."""
        query = "SELECT spec FROM revisions WHERE run_id = ? AND number = ?"
        row = self._conn.execute(query, (job.run_id, job.revision)).fetchone()
        return job.revision if row is None else revision_in(row[0])

    def events(self) -> list[tuple[float, str, str]]:
        """All of history: when, about whom, what."""
        rows = self._conn.execute(
            "SELECT at, coalesce(runs.name, object_kind || ' ' || object_id, ''), message FROM events"
            " LEFT JOIN runs ON runs.id = run_id ORDER BY events.seq"
        )
        return [(_seconds(at), who, message) for at, who, message in rows]


def _seconds(micros: int) -> float:
    """Virtual seconds of a time in the database."""
    return micros / 1e6 - START.timestamp()


def _service_of(row: Sequence[Any]) -> ServiceRow:
    id, name, status, deployment, rollout, scale, replicas, scaling, revised_at = row
    bounds, rules = Range.parse(replicas, parse_count), json.loads(scaling)
    return ServiceRow(
        id=id,
        name=name,
        status=status,
        deployment=deployment,
        rollout=None if rollout is None else json.loads(rollout),
        least=bounds.min or 0,
        most=bounds.max or 0,
        scale=None if scale is None else _scale_of(scale),
        down_delay_s=parse_duration(rules.get("scale_down_delay", DOWN_DELAY)),
        window_s=parse_duration(rules.get("window", WINDOW)),
        revised_at_s=_seconds(revised_at),
    )


def _scale_of(column: str) -> ScaleRow | None:
    if (scale := json.loads(column)) is None:
        return None
    return ScaleRow(scale["asked"], datetime.fromisoformat(scale["since"]).timestamp() - START.timestamp())


def _replica_of(row: Sequence[Any]) -> ReplicaRow:
    *values, is_ready, since, unready_since, draining_since, drained_by = row
    since_s, unready_since_s, draining_since_s = (
        None if at is None else _seconds(at) for at in (since, unready_since, draining_since)
    )
    times = [bool(is_ready), since_s, unready_since_s, draining_since_s]
    return ReplicaRow(*[*values, *times, frozenset(json.loads(drained_by))])


def _job_of(row: Sequence[Any]) -> JobRow:
    values = [*row[:-1], None if row[-1] is None else json.loads(row[-1])]
    return JobRow(*values)


def _instance_of(row: Sequence[Any]) -> InstanceRow:
    id, status, offer, idle_duration_s, finished_at, reason, created_at, last_finished_at, jobs = row
    return InstanceRow(
        id=id,
        status=status,
        offer=json.loads(offer),
        idle_duration_s=idle_duration_s,
        finished_at_s=None if finished_at is None else _seconds(finished_at),
        reason=reason,
        needed_until_s=None if jobs else _seconds(max(created_at, last_finished_at or 0)),
    )
