"""Connections and transactions: one writer thread that shares a commit among all who wait, and a few reader threads.

Waiting writes go into one commit; one that fails harms no other. What the writes wake is looked at in the same commit
(the reactor), so that a wish and the decision about it are one.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, DataError

from dstack.domain.objects import Object
from dstack.errors import ConfigurationError, DatabaseUnavailable, InvalidRequestError
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.kit.weighed import WeighedCache
from dstack.store.dialect import Dialect
from dstack.store.kinds import KINDS
from dstack.store.notices import Notices
from dstack.store.schema import prepare_schema
from dstack.store.tx import Tx, Versioned

T = TypeVar("T")
log = logging.getLogger(__name__)

READERS = 4
WRITES_WAITING_MAX = 10_000
WRITES_PER_COMMIT = 200
AFTER_A_BUG = timedelta(seconds=30)
ANNOUNCE_AFTER = timedelta(milliseconds=100)
KNOWN_MAX = 200_000
SEEN_BYTES_MAX = 32 << 20
"""The bound of the objects that readers keep, by their weights."""


class Database:
    """The store's way to the database. `read` and `write` take plain functions of a `Tx` and run them in threads.

    What `write` runs may be run again, where the commit it was in did not succeed.
    """

    def __init__(self, dialect: Dialect, clock: Clock) -> None:
        self._dialect = dialect
        self._clock = clock
        self._opened_at: datetime | None = None
        self._rows = {kind.rows.type: kind.rows for kind in KINDS.values()}
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="store-beside")
        self._waiting: deque[Write] = deque()
        self._turns = threading.Lock()
        self._writing = False
        self._conn: Connection | None = None
        self._seen = WeighedCache[tuple[str, str], Object](SEEN_BYTES_MAX)
        self._seen_in_turns = self._nothing_seen()
        self._known: dict[tuple[str, str], Any] = {}
        self._lists: dict[tuple[str, str], tuple[str, ...]] = {}
        self._ended: deque[tuple[str, str]] = deque()
        self._reactor: Callable[[Tx], None] = lambda tx: None
        self._listeners: list[Callable[[Notices], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = TaskGroup()
        self._announced: set[str] = set()
        self._newer: DatabaseUnavailable | None = None
        """The error of the last commit, if a newer server has migrated the database."""

    def open(self) -> None:
        """Make or check the schema.

        Raises:
            ConfigurationError: the database cannot be used: damaged, read-only, or of a newer version.
        """
        try:
            self._dialect.prepare()
            prepare_schema(self._dialect)
        except (OSError, DatabaseError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.orig
            raise ConfigurationError(
                f"The database {self._dialect.name} cannot be used: {reason}", hint=self._dialect.advice
            ) from error
        self._opened_at = self._clock.now()  # by a clock that agrees with the database's
        self._loop = asyncio.get_running_loop()
        self._tasks.start("hearing other servers", self._dialect.follow(self._publish))

    async def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        await self._tasks.close()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._hang_up)
        await asyncio.to_thread(self._writer.shutdown)
        self._readers.shutdown()
        self._beside.shutdown()
        self._dialect.engine.dispose()

    def react(self, reactor: Callable[[Tx], None]) -> None:
        """Have `reactor` called at the end of every commit that woke something, inside it.

        It takes from `Tx.wakes` what it looks at. What it raises rolls back what it wrote, and nothing else.
        """
        self._reactor = reactor

    def listen(self, listener: Callable[[Notices], None]) -> None:
        """Have `listener` called on the event loop after every commit, of this server or of another."""
        self._listeners.append(listener)

    async def read(self, function: Callable[[Tx], T]) -> T:
        """The result of `function` in a transaction that only reads.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, function)

    async def write(self, function: Callable[[Tx], T]) -> T:
        """The result of `function`, once it is committed. An exception rolls back what it wrote.

        Raises:
            DatabaseUnavailable: nothing can be written just now: the disk is full, or too much is waiting.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._turns:
            if len(self._waiting) >= WRITES_WAITING_MAX:
                raise DatabaseUnavailable(f"{WRITES_WAITING_MAX} writes are waiting already", hint="Try again later")
            self._waiting.append(Write(function, future))
            begin, self._writing = not self._writing, True
        if begin:
            loop.run_in_executor(self._writer, self._write_all)
        result: T = await future
        return result

    async def beside(self, function: Callable[[Tx], T]) -> T:
        """Return the result of `function`, which writes rows of this server alone. It waits for no turn.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(self._beside, self._write_beside, function)

    def _write_beside(self, function: Callable[[Tx], T]) -> T:
        try:
            with self._dialect.engine.begin() as conn:
                return function(Tx(conn, self._clock, self._rows))
        except DatabaseError as error:
            raise self._unavailable("written", error) from error

    def announce(self, id: str) -> None:
        """Have those who wait for `id` on other servers hear soon that something about it has changed."""
        if not self._dialect.is_shared:
            return
        self._announced.add(id)
        if len(self._announced) == 1:
            self._tasks.start("announcing", self._announce())

    async def _announce(self) -> None:
        """What comes within a moment is one message."""
        await self._clock.sleep(ANNOUNCE_AFTER)
        ids, self._announced = self._announced, set()
        try:
            await self.write(lambda tx: tx.notices.changed.update(ids))
        except DatabaseUnavailable:
            log.warning("Other servers could not be notified of new log lines")

    async def recall(self, function: Callable[[Tx], T]) -> T:
        """Like `read`, in turn with the writes: what was decided on a moment ago is remembered there."""
        return await self.write(function)

    def _read(self, function: Callable[[Tx], T]) -> T:
        if self._newer is not None:
            raise DatabaseUnavailable(self._newer.message, hint=self._newer.hint)
        try:
            with self._dialect.reading.connect() as conn, conn.begin():
                return function(Tx(conn, self._clock, self._rows, seen=self._seen))
        except DataError as error:
            raise _refusal(error) from error
        except DatabaseError as error:
            raise self._unavailable("read", error) from error

    def _unavailable(self, verb: str, error: DatabaseError) -> DatabaseUnavailable:
        reason = str(error.orig).partition("\n")[0]
        return DatabaseUnavailable(f"The server's database cannot be {verb} now: {reason}", hint=self._dialect.advice)

    def _write_all(self) -> None:
        """Until nobody waits any more; who comes meanwhile shares the next commit."""
        while True:
            with self._turns:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), WRITES_PER_COMMIT))]
                self._writing = bool(batch)
            if not batch:
                return
            self._call_loop(self._settle, batch, self._commit_together(batch))

    def _commit_together(self, batch: list["Write"]) -> Notices:
        """Commit the writes; where that does not work, without those that failed, then without looking at anything."""
        reactor, is_fresh = self._reactor, self._conn is None
        while True:
            try:
                return self._commit([write for write in batch if write.error is None], reactor)
            except _Half:
                log.debug("A write failed halfway; the others of its commit are done again without it")
            except Exception as error:
                if isinstance(error, DatabaseError) and not is_fresh:
                    is_fresh = True  # the connection may have died since it was last used; now there is a new one
                    continue
                if reactor is _look_later:
                    log.error("A commit of %d writes failed: %s", len(batch), error)
                    told = self._unavailable("written", error) if isinstance(error, DatabaseError) else error
                    for write in batch:
                        write.error = write.error or told
                    return Notices()
                log.error("A commit failed; it is retried once, without the steps that it wakes", exc_info=error)
                reactor = _look_later
            finally:
                if len(self._known) > KNOWN_MAX:
                    self._forget()

    def _outdated(self, batch: list["Write"], error: DatabaseUnavailable) -> Notices:
        """Refuse all work on a database that a newer server has migrated."""
        if self._newer is None:
            log.error("%s. %s", error.message, error.hint)
        self._newer = error
        for write in batch:
            write.error = write.error or error
        return Notices()

    def _commit(self, batch: list["Write"], reactor: Callable[[Tx], None]) -> Notices:
        try:
            conn = self._writing_connection()
            # The transaction begins with the first statement: where nothing is asked or written, there is none.
            if self._dialect.begin(conn):
                self._compare_again()
            known = self._known, self._lists, self._ended, self._seen_in_turns
            tx = Tx(conn, self._clock, self._rows, *known, opened_at=self._opened_at)
            for write in batch:
                write.run(tx)
            if tx.wakes:
                reactor(tx)
            tx.finish(self._dialect.keep_earlier)
            self._dialect.tell(conn, tx.notices)
            conn.commit()
            self._newer = None
            return tx.notices
        except DatabaseUnavailable as error:  # `begin` found a newer schema
            self._hang_up()
            return self._outdated(batch, error)
        except BaseException:
            self._forget()  # what is remembered was not committed
            self._hang_up()
            raise

    def _writing_connection(self) -> Connection:
        if self._conn is None:
            self._conn = self._dialect.engine.connect()
        return self._conn

    def _hang_up(self) -> None:
        """After trouble the next commit begins with a connection that works."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def _compare_again(self) -> None:
        """Trust nothing that another server may have changed. What has versions is compared before its use."""
        kept = {key: known for key, known in self._known.items() if isinstance(known, Versioned)}
        for known in kept.values():
            known.is_stale = True
        self._forget_all()
        self._known.update(kept)

    def _forget(self) -> None:
        """Forget what was not committed, and all else: a version that was not committed may come again."""
        self._forget_all()
        self._seen_in_turns = self._nothing_seen()

    def _forget_all(self) -> None:
        self._known.clear()
        self._lists.clear()
        self._ended.clear()

    def _nothing_seen(self) -> WeighedCache[tuple[str, str], Object] | None:
        """Where a server is alone, it knows all that it has seen."""
        return WeighedCache(SEEN_BYTES_MAX) if self._dialect.is_shared else None

    def _settle(self, batch: list["Write"], notices: Notices) -> None:
        for write in batch:
            write.settle()
        self._publish(notices)

    def _publish(self, notices: Notices) -> None:
        for listener in self._listeners:
            listener(notices)

    def _call_loop(self, function: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)


def _refusal(error: DataError) -> InvalidRequestError:
    """What was asked for has what this database does not take: a character, say."""
    return InvalidRequestError(f"The database does not take this: {str(error.orig).partition(chr(10))[0]}")


class _Half(Exception):
    """A write failed after it had written something."""


def _look_later(tx: Tx) -> None:
    later = tx.clock.now() + AFTER_A_BUG
    tx.wakes = {who: max(at, later) for who, at in tx.wakes.items()}


class Write:
    """One queued write and who waits for it."""

    __slots__ = ("_function", "_future", "_result", "error")

    def __init__(self, function: Callable[[Tx], Any], future: "asyncio.Future[Any]") -> None:
        self._function = function
        self._future = future
        self._result: Any = None
        self.error: BaseException | None = None

    def run(self, tx: Tx) -> None:
        """Run the function. Most that fail do so before they have written anything, and disturb nobody."""
        changes = tx.changes
        try:
            self._result = self._function(tx)
        except Exception as error:
            if isinstance(error, DataError):
                self.error = _refusal(error)
                raise _Half from error
            if isinstance(error, DatabaseError):
                raise  # it is not this function's fault; none of the others would fare better
            self.error = error
            if tx.changes != changes:
                raise _Half from error

    def settle(self) -> None:
        """Tell who waits what came of it."""
        if self._future.cancelled():
            return
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(self._result)
