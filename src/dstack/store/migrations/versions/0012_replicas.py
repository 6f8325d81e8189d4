"""The replicas of a service live their own lives, drain, and are replaced by those of another revision."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("runs", sa.Column("deployment", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("runs", sa.Column("rollout", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("deployment", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("failing_since", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("launches", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("unready_since", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("draining_since", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("drained_by", sa.JSON(), nullable=False, server_default="[]"))
    has_none = sa.false()
    op.add_column("replicas", sa.Column("has_data_plane", sa.Boolean(), nullable=False, server_default=has_none))
