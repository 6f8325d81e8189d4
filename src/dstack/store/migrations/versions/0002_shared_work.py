"""Intents are counted for each object and name their instance; servers share the instances out."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOVE = """
INSERT INTO intents (object_kind, object_id, position, instance_id, kind, body, state, outcome, created_at)
SELECT old.object_kind, old.object_id, old.seq,
       CASE WHEN old.object_kind = 'instance' THEN old.object_id ELSE jobs.instance_id END,
       old.kind, old.body, old.state, old.outcome, old.created_at
FROM intents_before AS old LEFT JOIN jobs ON jobs.id = old.object_id
WHERE old.object_kind = 'instance' OR jobs.instance_id IS NOT NULL
"""

_INDEXES = {
    "runs_by_name": ["project_id", "name", "id"],
    "runs_active": ["project_id", "finished_at", "id"],
    "runs_of_project": ["project_id", "id"],
}


def upgrade() -> None:
    op.drop_index("intents_by_state", "intents")
    op.drop_index("intents_of_object", "intents")
    op.rename_table("intents", "intents_before")
    op.create_table(
        "intents",
        sa.Column("object_kind", sa.String(length=20), nullable=False),
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("object_kind", "object_id", "position"),
    )
    op.execute(_MOVE)
    op.drop_table("intents_before")
    op.create_index("intents_by_state", "intents", ["state"], unique=False)
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("hostname", sa.String(length=300), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "shards",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("replica_id", sa.String(length=36), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.add_column("jobs", sa.Column("max_duration_s", sa.Float(), nullable=True))
    op.add_column("runs", sa.Column("failing_since", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("gone_at", sa.BigInteger(), nullable=True))
    for name, columns in _INDEXES.items():
        if name != "runs_of_project":
            op.drop_index(name, "runs")
        op.create_index(name, "runs", columns, unique=False)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE commits")
