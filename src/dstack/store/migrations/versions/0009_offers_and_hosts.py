"""The host as its agent found it, apart from the offer; and the separate meanings of the former `shared`."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_AT_ONCE = 500


def upgrade() -> None:
    op.add_column("instances", sa.Column("host", sa.JSON(), nullable=True))
    instances = sa.table("instances", sa.column("id", sa.String), sa.column("offer", sa.JSON))
    update = sa.update(instances).where(instances.c.id == sa.bindparam("of_id")).values(offer=sa.bindparam("of_offer"))
    conn = op.get_bind()
    changes = [{"of_id": row.id, "of_offer": _offer_of(row.offer)} for row in conn.execute(sa.select(instances))]
    for start in range(0, len(changes), _AT_ONCE):
        conn.execute(update, changes[start : start + _AT_ONCE])


def _offer_of(offer: dict[str, Any]) -> dict[str, Any]:
    """Return an offer of version 0008 as this version has it: only the server's own machine was shared."""
    is_shared = offer.pop("shared")
    return {
        **offer,
        "blocks": None if is_shared else 1,
        "exists": is_shared,
        "for_all": is_shared,
        "runtime": "process" if is_shared else "container",
    }
