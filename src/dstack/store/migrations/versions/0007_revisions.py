"""Runs have revisions, and a job is made from one of them. A job's ports are a column."""

import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_PORT = re.compile(r"(?:([0-9]{1,5}|\*):)?([0-9]{1,5})")
_AT_ONCE = 500


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("run_id", "number"),
    )
    op.add_column("runs", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("ports", sa.JSON(), nullable=False, server_default="{}"))
    op.execute(
        "INSERT INTO revisions (run_id, number, spec, created_at, user_id)"
        " SELECT id, 1, spec, submitted_at, user_id FROM runs"
    )
    _write_ports()


def _write_ports() -> None:
    runs = sa.table("runs", sa.column("id", sa.String), sa.column("spec", sa.JSON))
    jobs = sa.table("jobs", sa.column("run_id", sa.String), sa.column("ports", sa.JSON))
    update = sa.update(jobs).where(jobs.c.run_id == sa.bindparam("of_run")).values(ports=sa.bindparam("of_ports"))
    conn = op.get_bind()
    found = [(row.id, _ports_in(row.spec.get("configuration"))) for row in conn.execute(sa.select(runs))]
    changes = [{"of_run": id, "of_ports": ports} for id, ports in found if ports]
    for start in range(0, len(changes), _AT_ONCE):
        conn.execute(update, changes[start : start + _AT_ONCE])


def _ports_in(configuration: Any) -> dict[str, int | None]:
    """Return the ports of a configuration as version 0006 read them; those that it did not understand are left out."""
    if not isinstance(configuration, dict):
        return {}
    is_service = configuration.get("type") == "service"
    written = [configuration.get("port")] if is_service else configuration.get("ports") or []
    ports: dict[str, int | None] = {}
    for port in written if isinstance(written, list) else [written]:
        if match := _PORT.fullmatch(str(port).strip()):
            inside = int(match[2])
            anywhere = is_service or match[1] == "*"
            ports[str(inside)] = None if anywhere else int(match[1] or inside)
    return ports
