"""The databases of made-up worlds: copied instead of made, noting every change of a status, and busy now and then."""

import sqlite3
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from dstack.store.db import Database
from dstack.store.notices import Notices
from dstack.store.sqlite import Sqlite
from dstack.testing.faults import DatabaseBusy
from dstack.testing.nature import Nature
from dstack.testing.time import VirtualClock, VirtualLoop

_NOTES = "CREATE TABLE notes (n INTEGER PRIMARY KEY, source TEXT, kind TEXT, id TEXT, status TEXT);" + "".join(
    f"""
CREATE TRIGGER {kind}_is_born AFTER INSERT ON {kind}s
    BEGIN INSERT INTO notes VALUES (NULL, 'row', '{kind}', new.id, new.status); END;
CREATE TRIGGER {kind}_moves AFTER UPDATE OF status ON {kind}s WHEN old.status <> new.status
    BEGIN INSERT INTO notes VALUES (NULL, 'row', '{kind}', new.id, new.status); END;
CREATE TRIGGER {kind}_is_told AFTER INSERT ON events WHEN new.kind LIKE '{kind}.%'
    BEGIN INSERT INTO notes VALUES (NULL, 'event', '{kind}', new.{kind}_id, new.status); END;
"""
    for kind in ("run", "job", "instance")
)
# An attempt that is over in the commit in which it began leaves the status as it was.
_NOTES += """
CREATE TRIGGER run_waits_anew AFTER UPDATE OF retry_at ON runs WHEN old.status = new.status
    BEGIN INSERT INTO notes VALUES (NULL, 'row', 'run', new.id, new.status); END;
"""
"""The database itself notes what is written of statuses, in rows and in events: no code of ours can forget to."""

_template: dict[str, bytes] = {}


async def copy_database(path: Path, loop: VirtualLoop) -> None:
    """A new database with today's tables; copied, since making one takes long."""
    if "bytes" not in _template:
        database = Database(Sqlite(path), VirtualClock(loop))
        database.open()
        await database.close()
        _template["bytes"] = _prepare(path)
    _write(path)


def _prepare(path: Path) -> bytes:
    connection = sqlite3.connect(path)
    connection.executescript(_NOTES)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.read_bytes()


def _write(path: Path) -> None:
    path.write_bytes(_template["bytes"])


class BusySqlite(Sqlite):
    """The real database, at times too busy to begin a commit, or to end it."""

    def __init__(self, path: Path, nature: Nature) -> None:
        super().__init__(path)
        self._busy = nature.find(DatabaseBusy)
        self._chance = nature.chance

    def begin(self, conn: Connection) -> bool:
        self._maybe_fail("BEGIN")
        return super().begin(conn)

    def tell(self, conn: Connection, notices: Notices) -> None:
        super().tell(conn, notices)
        self._maybe_fail("COMMIT")

    def _maybe_fail(self, statement: str) -> None:
        if self._busy is not None and self._chance.random() < self._busy.probability:
            raise OperationalError(statement, None, Exception("database is locked"))
