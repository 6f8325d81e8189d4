"""All tables on one page. Typed columns for what is queried, JSON for what is only carried along."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
)

HEAD = "0014"
"""The newest migration: what this code can read and write."""

metadata = MetaData()

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Time(TypeDecorator[datetime]):
    """An aware UTC time, kept as whole microseconds since 1970: exact, sortable, the same on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        since = value - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)


Sequence("commits", metadata=metadata)
"""Counts the turns of all servers on a PostgreSQL database: who finds a gap knows that another has written."""


def _id() -> Column[str]:
    return Column("id", String(36), primary_key=True)


users = Table(
    "users",
    metadata,
    _id(),
    Column("name", String(100), nullable=False, unique=True),
    Column("is_admin", Boolean, nullable=False),
    Column("token_hash", String(64), nullable=False, unique=True),  # the id of the request that made the user
    Column("created_at", Time, nullable=False),
    Column("deleted_at", Time),
)

tokens = Table(
    "tokens",
    metadata,
    _id(),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("name", String(100), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time),
    Index("tokens_of_user", "user_id", "name", unique=True),
)

projects = Table(
    "projects",
    metadata,
    _id(),
    Column("name", String(100), nullable=False, unique=True),
    Column("created_at", Time, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("role", String(20), nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("updated_at", Time, nullable=False),
)

repos = Table(
    "repos",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("id", String(200), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("url", Text),
    Column("sealed", Text),
    Column("updated_at", Time, nullable=False),
)

backends = Table(
    "backends",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id")),
    Column("type", String(40), nullable=False),
    Column("name", String(100), nullable=False),
    Column("config", JSON, nullable=False),
    Column("sealed", Text),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("closing_since", Time),
    Index("backends_by_name", "project_id", "name", unique=True),
)

runs = Table(
    "runs",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("name", String(100), nullable=False),
    Column("type", String(30), nullable=False),
    Column("status", String(20), nullable=False),
    Column("status_since", Time, nullable=False),
    Column("submitted_at", Time, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("deployment", Integer, nullable=False, server_default="1"),
    Column("rollout", JSON),
    Column("scale", JSON),
    Column("priority", Integer, nullable=False),
    Column("started_at", Time),
    Column("finished_at", Time),
    Column("reason", String(40)),
    Column("detail", Text, nullable=False),
    Column("stop_asked", String(40)),
    Column("retry_at", Time),
    Column("failing_since", Time),
    Column("launches", JSON),
    Column("idempotency_key", String(100), unique=True),
    Column("version", Integer, nullable=False),
    Index("runs_by_name", "project_id", "name", "id"),
    Index("runs_active", "project_id", "finished_at", "id"),
    Index("runs_of_project", "project_id", "id"),
)

revisions = Table(
    "revisions",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("spec", JSON, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("replica", Integer, nullable=False),
    Column("node", Integer, nullable=False),
    Column("nodes", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("deployment", Integer, nullable=False, server_default="1"),
    Column("status", String(20), nullable=False),
    Column("status_since", Time, nullable=False),
    Column("submitted_at", Time, nullable=False),
    Column("demand", JSON, nullable=False),
    Column("stop_grace_s", Float, nullable=False),
    Column("max_duration_s", Float),
    Column("ports", JSON, nullable=False, server_default="{}"),
    Column("instance_id", ForeignKey("instances.id")),
    Column("share", JSON, nullable=False),
    Column("started_at", Time),
    Column("finished_at", Time),
    Column("reason", String(40)),
    Column("detail", Text, nullable=False),
    Column("stop_asked", String(40)),
    Column("report", JSON),
    Column("lost_at", Time),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("failing_since", Time),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("launches", JSON),
    Column("unready_since", Time),
    Column("draining_since", Time),
    Column("drained_by", JSON, nullable=False, server_default="[]"),
    Column("version", Integer, nullable=False),
    Index("jobs_of_run", "run_id"),
    Index("jobs_by_status", "status"),
    Index("jobs_on_instance", "instance_id", "finished_at"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("starts_at", Time, primary_key=True),
    Column("points", LargeBinary, nullable=False),
)

traffic = Table(
    "traffic",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("source", String(36), primary_key=True),
    Column("starts_at", Time, primary_key=True),
    Column("points", LargeBinary, nullable=False),
)

instances = Table(
    "instances",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id")),
    Column("backend", String(40), nullable=False),
    Column("offer", JSON, nullable=False),
    Column("host", JSON),
    Column("status", String(20), nullable=False),
    Column("status_since", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("idle_duration_s", Float),
    Column("machine_id", String(300)),
    Column("address", JSON),
    Column("agent_seen_at", Time),
    Column("unreachable_since", Time),
    Column("gone_at", Time),
    Column("failed_starts", Integer, nullable=False, server_default="0"),
    Column("rests_until", Time),
    Column("drain_asked_at", Time),
    Column("ssh_port", Integer),
    Column("ssh_host_key", Text),
    Column("reason", String(40)),
    Column("detail", Text, nullable=False),
    Column("finished_at", Time),
    Column("version", Integer, nullable=False),
    Index("instances_live", "finished_at"),
)

intents = Table(
    "intents",
    metadata,
    Column("object_kind", String(20), primary_key=True),
    Column("object_id", String(36), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("shard_key", String(36), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("body", JSON, nullable=False),
    Column("state", String(10), nullable=False),
    Column("outcome", JSON),
    Column("created_at", Time, nullable=False),
    Index("intents_by_state", "state"),
)

wakes = Table(
    "wakes",
    metadata,
    Column("kind", String(20), primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("due_at", Time, nullable=False),
    Index("wakes_due", "due_at"),
)

replicas = Table(
    "replicas",
    metadata,
    _id(),
    Column("hostname", String(300), nullable=False),
    Column("expires_at", Time),
    Column("has_data_plane", Boolean, nullable=False, server_default=false()),
)

shards = Table(
    "shards",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("replica_id", String(36)),
    Column("epoch", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Time, nullable=False),
    Column("project_id", String(36)),
    Column("object_kind", String(20), nullable=False, server_default=""),
    Column("object_id", String(36)),
    Column("run_id", String(36)),
    Column("instance_id", String(36)),
    Column("actor", String(120), nullable=False),
    Column("kind", String(60), nullable=False),
    Column("status", String(20)),
    Column("message", Text, nullable=False),
    Index("events_of_run", "run_id", "seq"),
    sqlite_autoincrement=True,  # a number that was used never comes again: readers remember how far they are
)
