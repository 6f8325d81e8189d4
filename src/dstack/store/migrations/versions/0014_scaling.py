"""Services scale with their traffic."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("runs", sa.Column("scale", sa.JSON(), nullable=True))
