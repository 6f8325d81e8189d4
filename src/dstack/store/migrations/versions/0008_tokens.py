"""Several tokens for each user, and users that were deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("users", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    tokens = op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hash"),
    )
    op.create_index("tokens_of_user", "tokens", ["user_id", "name"], unique=True)
    users = sa.table("users", *(sa.column(name) for name in ("id", "token_hash", "created_at")))
    # The former column stays as it is: servers of the version before go on to know the token during an update.
    former = sa.select(users.c.id, users.c.id, sa.literal("server"), users.c.token_hash, users.c.created_at)
    op.execute(sa.insert(tokens).from_select(["id", "user_id", "name", "hash", "created_at"], former))
