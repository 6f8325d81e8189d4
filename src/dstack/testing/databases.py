"""The databases of made-up worlds: copied instead of made, noting every change of a status, and busy now and then."""

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from dstack.kit.clock import CorrectedClock
from dstack.store.db import Database
from dstack.store.kinds import KINDS
from dstack.store.notices import Notices, of_message, to_messages
from dstack.store.sqlite import Sqlite
from dstack.testing.faults import DatabaseBusy, DeafServers
from dstack.testing.nature import Nature
from dstack.testing.time import VirtualClock, VirtualLoop

_NOTES = """
CREATE TABLE notes (n INTEGER PRIMARY KEY, source TEXT, kind TEXT, id TEXT, status TEXT);
CREATE TRIGGER move_is_told AFTER INSERT ON events WHEN new.status IS NOT NULL AND new.kind LIKE new.object_kind || '.%'
    BEGIN INSERT INTO notes VALUES (NULL, 'event', new.object_kind, new.object_id, new.status); END;
"""
_NOTES_OF_KIND = """
CREATE TRIGGER {kind}_is_born AFTER INSERT ON {table}
    BEGIN INSERT INTO notes VALUES (NULL, 'row', '{kind}', new.id, new.status); END;
CREATE TRIGGER {kind}_moves AFTER UPDATE OF status ON {table} WHEN old.status <> new.status
    BEGIN INSERT INTO notes VALUES (NULL, 'row', '{kind}', new.id, new.status); END;
"""
# An attempt that is over in the commit in which it began leaves the status as it was.
_NOTES += """
CREATE TRIGGER run_waits_anew AFTER UPDATE OF retry_at ON runs WHEN old.status = new.status
    BEGIN INSERT INTO notes VALUES (NULL, 'row', 'run', new.id, new.status); END;
"""
# What agents say, and what came of intents, may be written by one server only.
_NOTES += """
CREATE TRIGGER agent_is_heard AFTER UPDATE OF report ON jobs
    BEGIN INSERT INTO notes VALUES (NULL, 'heard', 'instance', new.instance_id, ''); END;
CREATE TRIGGER agent_is_lost_or_found AFTER UPDATE OF unreachable_since ON instances
    BEGIN INSERT INTO notes VALUES (NULL, 'heard', 'instance', new.id, ''); END;
CREATE TRIGGER intent_is_answered AFTER UPDATE OF state ON intents
    BEGIN INSERT INTO notes VALUES (NULL, 'heard', 'instance', new.shard_key, ''); END;
"""
_NOTES += """
CREATE TRIGGER run_is_scaled AFTER INSERT ON events WHEN new.kind = 'run.scaled'
    BEGIN INSERT INTO notes VALUES (NULL, 'scaled', 'run', new.object_id, ''); END;
CREATE TRIGGER traffic_begins AFTER INSERT ON traffic
    BEGIN INSERT INTO notes VALUES (NULL, 'traffic', 'run', new.run_id, ''); END;
CREATE TRIGGER traffic_goes_on AFTER UPDATE OF points ON traffic
    BEGIN INSERT INTO notes VALUES (NULL, 'traffic', 'run', new.run_id, ''); END;
"""
_NOTES += """
CREATE TRIGGER job_is_asked_to_end AFTER UPDATE OF stop_asked ON jobs WHEN new.stop_asked IS NOT old.stop_asked
    BEGIN INSERT INTO notes VALUES (NULL, 'asked', 'job', new.id, coalesce(new.stop_asked, '')); END;
"""
"""The database itself notes what is written of statuses, in rows and in events: no code of ours can forget to."""

NOTICES_TAKE_S = 0.1

_templates: dict[tuple[str, ...], bytes] = {}
"""By the kinds of objects."""


async def copy_database(path: Path, loop: VirtualLoop) -> None:
    """A new database with today's tables; copied, since making one takes long."""
    kinds = tuple(KINDS)
    if kinds not in _templates:
        database = Database(Sqlite(path), VirtualClock(loop))
        database.open()
        await database.close()
        _templates[kinds] = _prepare(path)
    _write(path, _templates[kinds])


def _prepare(path: Path) -> bytes:
    note_statuses(path)
    return path.read_bytes()


def _write(path: Path, database: bytes) -> None:
    path.write_bytes(database)


def note_statuses(path: Path) -> None:
    """Let a database note from now on what is written of statuses."""
    connection = sqlite3.connect(path)
    of_kinds = [_NOTES_OF_KIND.format(kind=name, table=kind.rows.table.name) for name, kind in KINDS.items()]
    connection.executescript("".join([_NOTES, *of_kinds]))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


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


class SharedSqlite(BusySqlite):
    """A file on which several servers work, as they do on PostgreSQL. Nobody has to wait for his turn: nothing happens
    at once on virtual time."""

    is_shared = True

    def __init__(self, path: Path, nature: Nature, clock: CorrectedClock, exchange: "Exchange") -> None:
        super().__init__(path, nature)
        self._clock = clock
        self._exchange = exchange
        self._turn = -1

    def prepare(self) -> None:
        super().prepare()
        self._clock.correct(self._exchange.now())

    def begin(self, conn: Connection) -> bool:
        super().begin(conn)
        turn = self._exchange.next_turn()
        self._clock.correct(self._exchange.now())
        others = turn != self._turn + 1
        self._turn = turn
        return others

    def tell(self, conn: Connection, notices: Notices) -> None:
        super().tell(conn, notices)
        self._exchange.tell(self, list(to_messages(notices)))

    async def follow(self, hear: Callable[[Notices], None]) -> None:
        await self._exchange.follow(self, hear)


class Exchange:
    """What several servers have in common besides the file: the count of turns, the right time, and notices."""

    def __init__(self, nature: Nature) -> None:
        self._nature = nature
        self._clock = VirtualClock(asyncio.get_running_loop())
        self._turns = itertools.count()
        self._hearers: dict[SharedSqlite, Callable[[Notices], None]] = {}

    def now(self) -> datetime:
        """The database's time, which is everyone's."""
        return self._clock.now()

    def next_turn(self) -> int:
        """The number of a turn that begins."""
        return next(self._turns)

    def tell(self, teller: SharedSqlite, messages: Sequence[str]) -> None:
        """Have all others hear, a moment later."""
        for message in messages:
            for listener in self._hearers:
                if listener is not teller:
                    delay_s = self._nature.within(NOTICES_TAKE_S)
                    asyncio.get_running_loop().call_later(delay_s, self._hand, listener, message)

    def _hand(self, listener: SharedSqlite, message: str) -> None:
        if (hear := self._hearers.get(listener)) is not None:
            hear(of_message(message))

    async def follow(self, listener: SharedSqlite, hear: Callable[[Notices], None]) -> None:
        """Hear what others tell; where the connection breaks, whatever is told meanwhile is missed."""
        deaf = self._nature.find(DeafServers)
        while True:
            self._hearers[listener] = hear
            hear(Notices(everything=True))
            try:
                await self._break(None if deaf is None else deaf.every_s)
            finally:
                del self._hearers[listener]
            await self._break(None if deaf is None else deaf.lasts_s)

    async def _break(self, mean_s: float | None) -> None:
        if mean_s is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self._nature.chance.expovariate(1 / mean_s))
