"""Puts what was recorded into a database and a folder of today."""

import base64
import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, insert, select, text

from dstack.store.dialect import Dialect
from dstack.store.migrate import migrate

RECORDED = Path(__file__).parent
SCHEMAS = sorted(path.name.removeprefix("schema_") for path in RECORDED.glob("schema_*"))


def answers(schema: str) -> dict[str, Any]:
    """Return what a server of that time answered."""
    return _json(schema, "answers")


def outside(schema: str) -> dict[str, Any]:
    """Return the time of the record, the hosts, and the files of the logs."""
    return _json(schema, "outside")


def time_of(schema: str) -> datetime:
    """Return the time of the record."""
    return datetime.fromisoformat(outside(schema)["now"])


def _json(schema: str, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((RECORDED / f"schema_{schema}" / f"{name}.json").read_text())
    return value


def write_logs(schema: str, folder: Path) -> None:
    """Write the files of the logs as they were."""
    for name, content in outside(schema)["logs"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(base64.b64decode(content))


def write_sqlite(schema: str, path: Path) -> None:
    """Make the database of that time."""
    with sqlite3.connect(path) as conn:
        conn.executescript((RECORDED / f"schema_{schema}" / "database.sql").read_text())
    conn.close()


def load(schema: str, dialect: Dialect, folder: Path) -> None:
    """Make the database of that time with the same rows in any kind of database."""
    recorded = folder / "recorded.db"
    write_sqlite(schema, recorded)
    source = create_engine(f"sqlite:///{recorded}")
    engine = dialect.engine
    with engine.begin() as conn:
        migrate(conn, schema)
    _copy(source, engine)
    source.dispose()


def _copy(source: Engine, target: Engine) -> None:
    there, here = MetaData(), MetaData()
    there.reflect(source)
    here.reflect(target)
    with source.connect() as reading, target.begin() as conn:
        for table in here.sorted_tables:
            rows = [dict(row._mapping) for row in reading.execute(select(there.tables[table.name]))]
            if rows and table.name != "alembic_version":
                conn.execute(insert(table), rows)
        _count_on(conn)


def _count_on(conn: Connection) -> None:
    """Let the database number the next events after those that are there."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT setval(pg_get_serial_sequence('events', 'seq'), max(seq)) FROM events"))
