"""An instance has an address, and not only the name of a host; a run counts its launches in vain."""

import sqlite3

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

CAN_DROP = (3, 35)
"""The first version of SQLite that drops columns; in an older one the column stays, unused."""


def upgrade() -> None:
    op.add_column("runs", sa.Column("launches", sa.JSON(), nullable=True))
    op.add_column("instances", sa.Column("address", sa.JSON(), nullable=True))
    instances = sa.table(
        "instances", sa.column("id", sa.String()), sa.column("hostname", sa.String()), sa.column("address", sa.JSON())
    )
    hosts = sa.select(instances.c.hostname).distinct().where(instances.c.hostname.is_not(None))
    for host in op.get_bind().execute(hosts).scalars().all():
        address = {"host": host, "port": 22, "user": "root", "internal_ip": None}
        op.execute(sa.update(instances).where(instances.c.hostname == host).values(address=address))
    if op.get_bind().dialect.name != "sqlite" or sqlite3.sqlite_version_info >= CAN_DROP:
        op.drop_column("instances", "hostname")
