"""How many starts in a row have failed on a machine, and until when it rests."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("instances", sa.Column("failed_starts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("instances", sa.Column("rests_until", sa.BigInteger(), nullable=True))
