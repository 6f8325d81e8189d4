"""Events name their object by kind and id, and intents the key of their shard: objects need not be on an instance."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_KIND = (
    "CASE WHEN kind LIKE 'run.%' THEN 'run' WHEN kind LIKE 'job.%' THEN 'job'"
    " WHEN kind LIKE 'instance.%' THEN 'instance' ELSE 'machine' END"
)
_ID = "CASE WHEN kind LIKE 'run.%' THEN run_id WHEN kind LIKE 'instance.%' THEN instance_id ELSE object_id END"


def upgrade() -> None:
    op.execute("ALTER TABLE intents RENAME COLUMN instance_id TO shard_key")
    op.execute("ALTER TABLE events RENAME COLUMN job_id TO object_id")
    op.add_column("events", sa.Column("object_kind", sa.String(length=20), nullable=False, server_default=""))
    op.execute(f"UPDATE events SET object_kind = {_KIND}, object_id = {_ID}")
