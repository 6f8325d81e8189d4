"""Connections and transactions: one writer thread that shares a commit among all who wait, and a few reader threads.

One writer is what SQLite allows, and the fastest way to use it: waiting writes go into one commit, each behind its own
savepoint, so that one that fails harms no other. What the writes wake is looked at in the same commit (the reactor), so
that a wish and the decision about it are one.
"""

import asyncio
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, create_engine, event, func, inspect, text
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool

from dstack.domain.intents import Intent
from dstack.errors import ConfigurationError, ServerError
from dstack.kit.clock import Clock
from dstack.store import tables

T = TypeVar("T")
log = logging.getLogger(__name__)

READERS = 4
WRITES_WAITING_MAX = 10_000
WRITES_PER_COMMIT = 200
AFTER_A_BUG = timedelta(seconds=30)
NOT_NOW = (DatabaseError, ServerError)
"""What `write` raises where nothing can be written just now: the disk is full, or too much is waiting."""
KNOWN_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Open:
    """An intent that is still to be performed."""

    seq: int
    intent: Intent

    @property
    def owner(self) -> tuple[str, str]:
        """The object whose intents are performed one after the other."""
        return self.intent.object_kind, self.intent.object_id


@dataclass(slots=True)
class Notices:
    """What a commit has to tell the living: filled inside the transaction, published after it."""

    events: bool = False
    next_due: datetime | None = None
    """When the earliest wake that was left for later is due."""
    intents: list[Open] = field(default_factory=list)
    """What was decided to be done."""
    instances: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    """The ids of the runs that got a new job, or ended."""

    def add(self, more: "Notices") -> None:
        """Have these told too."""
        self.events |= more.events
        self.next_due = min(filter(None, [self.next_due, more.next_due]), default=None)
        self.intents += more.intents
        self.instances |= more.instances
        self.runs |= more.runs


@dataclass(slots=True)
class Tx:
    """One transaction: where to read and write, and the time at which all of it happens."""

    conn: Connection
    clock: Clock
    notices: Notices = field(default_factory=Notices)
    wakes: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """Who is to be looked at, and when: the reactor's work, and what it leaves goes into the table."""
    events: list[dict[str, object]] = field(default_factory=list)
    """The lines of history to be written, in order."""
    known: dict[tuple[str, str], object] = field(default_factory=dict)
    """What was last read or written of objects, by kind and id. The writer keeps it from one commit to the next: nobody
    else writes, and were it stale, the version of an object would tell."""
    lists: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Which objects belong together, by what and whose; kept like `known`."""


class Database:
    """The store's way to the database. `read` and `write` take plain functions of a `Tx` and run them in threads."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._engine = _engine_for(path)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._waiting: deque[_Write] = deque()
        self._turns = threading.Lock()
        self._writing = False
        self._known: dict[tuple[str, str], object] = {}
        self._lists: dict[tuple[str, str], tuple[str, ...]] = {}
        self._reactor: Callable[[Tx], None] = lambda tx: None
        self._listeners: list[Callable[[Notices], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Make or check the schema.

        Raises:
            ConfigurationError: the file cannot be used: damaged, read-only, or of a newer version.
        """
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            prepare_schema(self._engine)
        except OSError as error:
            raise ConfigurationError(
                f"The database `{self._path}` cannot be used: {error.strerror}", hint="Check the file's permissions"
            ) from error
        except DatabaseError as error:
            raise ConfigurationError(
                f"The database `{self._path}` cannot be used: {error.orig}",
                hint="Check the disk and the file's permissions, or restore the file from a backup",
            ) from error
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Finish what is queued, then let go of the file."""
        await asyncio.to_thread(self._writer.shutdown)
        self._readers.shutdown()
        self._engine.dispose()

    def react(self, reactor: Callable[[Tx], None]) -> None:
        """Have `reactor` called at the end of every commit that woke something, inside it.

        It takes from `Tx.wakes` what it looks at. What it raises rolls back what it wrote, and nothing else.
        """
        self._reactor = reactor

    def listen(self, listener: Callable[[Notices], None]) -> None:
        """Have `listener` called on the event loop after every commit that changed something."""
        self._listeners.append(listener)

    async def read(self, function: Callable[[Tx], T]) -> T:
        """The result of `function` in a transaction that only reads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, function)

    async def write(self, function: Callable[[Tx], T]) -> T:
        """The result of `function`, once it is committed. An exception rolls back what it wrote.

        Raises:
            ServerError: too many writes are waiting.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._turns:
            if len(self._waiting) >= WRITES_WAITING_MAX:
                raise ServerError(f"The database is behind by {WRITES_WAITING_MAX} writes", hint="Try again later")
            self._waiting.append(_Write(function, future))
            begin, self._writing = not self._writing, True
        if begin:
            loop.run_in_executor(self._writer, self._write_all)
        result: T = await future
        return result

    def _read(self, function: Callable[[Tx], T]) -> T:
        with self._engine.connect() as conn, conn.begin():
            return function(Tx(conn, self._clock))

    def _write_all(self) -> None:
        """Until nobody waits any more; who comes meanwhile shares the next commit."""
        while True:
            with self._turns:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), WRITES_PER_COMMIT))]
                self._writing = bool(batch)
            if not batch:
                return
            self._commit_together(batch)

    def _commit_together(self, batch: list["_Write"]) -> None:
        try:
            notices = self._commit(batch, self._reactor)
        except _ReactorFailed as failure:
            log.error("Looking at what was woken failed; it is looked at again later", exc_info=failure.__cause__)
            notices = self._commit_or_fail(batch)
        except Exception:  # noqa: BLE001 - told to everyone in the commit by the next line, should it fail again
            notices = self._commit_or_fail(batch)
        self._call_loop(self._settle, batch, notices)

    def _commit_or_fail(self, batch: list["_Write"]) -> Notices:
        """The same once more without looking at anything; an error that stays is everyone's in the commit."""
        self._forget()
        try:
            return self._commit(batch, _look_later)
        except Exception as error:  # noqa: BLE001 - disk full, read-only: belongs to those who wait for their writes
            log.error("A commit of %d writes failed: %s", len(batch), error)
            self._forget()
            for write in batch:
                write.fail(error)
            return Notices()

    def _commit(self, batch: list["_Write"], reactor: Callable[[Tx], None]) -> Notices:
        with self._engine.connect() as conn, conn.begin() as transaction:
            tx = Tx(conn, self._clock, known=self._known, lists=self._lists)
            for write in batch:
                write.run(tx, transaction if len(batch) == 1 else None)
            if len(self._known) > KNOWN_MAX:
                self._forget()
            if tx.wakes:
                try:
                    reactor(tx)
                except Exception as error:
                    raise _ReactorFailed from error
            _store_wakes(tx)
            _store_events(tx)
        return tx.notices

    def _forget(self) -> None:
        self._known.clear()
        self._lists.clear()

    def _settle(self, batch: list["_Write"], notices: Notices) -> None:
        for write in batch:
            write.settle()
        for listener in self._listeners:
            listener(notices)

    def _call_loop(self, function: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)


class _ReactorFailed(Exception):
    """What the reactor did is to be rolled back, and what the writes did is not."""


def _look_later(tx: Tx) -> None:
    later = tx.clock.now() + AFTER_A_BUG
    tx.wakes = {who: max(at, later) for who, at in tx.wakes.items()}


class _Write:
    """One queued write and who waits for it."""

    __slots__ = ("_error", "_function", "_future", "_result")

    def __init__(self, function: Callable[[Tx], Any], future: "asyncio.Future[Any]") -> None:
        self._function = function
        self._future = future
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, shared: Tx, alone: RootTransaction | None) -> None:
        """Run the function; alone in its commit it needs no savepoint, since then all of it is rolled back."""
        mine = Tx(shared.conn, shared.clock, known=shared.known, lists=shared.lists)
        try:
            with nullcontext() if alone is not None else shared.conn.begin_nested():
                self._result = self._function(mine)
        except Exception as error:  # noqa: BLE001 - belongs to the caller, and to nobody else in this commit
            self._error = error
            shared.known.clear()
            shared.lists.clear()
            if alone is not None:
                alone.rollback()
            return
        shared.events += mine.events
        shared.notices.add(mine.notices)
        for who, at in mine.wakes.items():
            shared.wakes[who] = min(at, shared.wakes.get(who, at))

    def fail(self, error: BaseException) -> None:
        self._error = self._error or error

    def settle(self) -> None:
        if self._future.cancelled():
            return
        if self._error is not None:
            self._future.set_exception(self._error)
        else:
            self._future.set_result(self._result)


_EVENTS = insert(tables.events)
_WAKES = insert(tables.wakes)
_KEEP_EARLIER = _WAKES.on_conflict_do_update(
    index_elements=["kind", "id"], set_={"due_at": func.min(tables.wakes.c.due_at, _WAKES.excluded.due_at)}
)


def _store_wakes(tx: Tx) -> None:
    """What is not looked at in this commit waits in the table; an earlier wake stays."""
    if tx.wakes:
        rows = [{"kind": kind, "id": id, "due_at": at} for (kind, id), at in tx.wakes.items()]
        tx.conn.execute(_KEEP_EARLIER, rows)
        tx.notices.next_due = min(tx.wakes.values())


def _store_events(tx: Tx) -> None:
    """All lines of the commit at once; in the order they were said, so that the numbers follow it."""
    if tx.events:
        tx.conn.execute(_EVENTS, tx.events)
        tx.notices.events = True


def _engine_for(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=READERS + 1,
        connect_args={"check_same_thread": False},
        hide_parameters=True,  # they hold users' variables, and errors go to the log
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # SQLAlchemy begins transactions itself (below): the driver's own way breaks savepoints.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        conn.exec_driver_sql("BEGIN")

    return engine


def prepare_schema(engine: Engine) -> None:
    """A new database gets today's tables at once; an older one is migrated; a newer one is refused.

    Raises:
        ConfigurationError: the database was written by a newer dstack.
    """
    with engine.begin() as conn:
        version = _version_of(conn)
        if version is None:
            tables.metadata.create_all(conn)
            conn.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            conn.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": tables.HEAD})
            return
    if version > tables.HEAD:
        raise ConfigurationError(
            f"The database is of version {version}, and this dstack knows versions up to {tables.HEAD}",
            hint="Use the newer dstack that wrote it",
        )
    if version < tables.HEAD:
        from dstack.store.migrate import migrate  # Alembic takes long to import, and is seldom needed

        migrate(engine)


def _version_of(conn: Connection) -> str | None:
    if not inspect(conn).has_table("alembic_version"):
        return None
    version: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version
