"""SQLite: one file, one server, nothing to set up."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import LRUCache

from dstack.store.dialect import Dialect
from dstack.store.json_columns import read_json
from dstack.store.notices import Notices
from dstack.store.tables import wakes

CONNECTIONS = 5


class _Compiled(LRUCache[Any, Any]):
    """Statements, compiled once for all databases of a process: a simulation has thousands.

    SQLAlchemy's keys begin with the dialect, which is another object for each engine, and here always of one kind.
    """

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: tuple[Any, ...], value: Any) -> None:
        super().__setitem__(key[1:], value)


_COMPILED = _Compiled(500)

_PRAGMAS = ("busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
_INSERT = insert(wakes)


class Sqlite(Dialect):
    """A database in a file."""

    is_shared = False
    advice = "Check the disk and the file's permissions, or restore the file from a backup"
    keep_earlier = _INSERT.on_conflict_do_update(
        index_elements=["kind", "id"], set_={"due_at": func.min(wakes.c.due_at, _INSERT.excluded.due_at)}
    )

    def __init__(self, path: Path) -> None:
        self.name = f"`{path}`"
        self.engine = self.reading = _engine_for(path)
        self._path = path

    def prepare(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def lock(self, conn: Connection) -> None:
        pass  # the lock on the data folder keeps others away

    def take_time(self, conn: Connection) -> None:
        pass  # no statement has a time-out

    def begin(self, conn: Connection) -> bool:
        return False

    def tell(self, conn: Connection, notices: Notices) -> None:
        pass  # there is nobody else

    async def follow(self, hear: Callable[[Notices], None]) -> None:
        pass


def _engine_for(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=CONNECTIONS,
        connect_args={"check_same_thread": False},
        hide_parameters=True,  # they hold users' variables, and errors go to the log
        json_deserializer=read_json,
        execution_options={"compiled_cache": _COMPILED},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # SQLAlchemy begins transactions itself (below): the driver's own way breaks savepoints.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        conn.connection.cursor().execute("BEGIN")  # SQLAlchemy would take as long for it as for a query

    return engine
