"""One transaction: what is read and written in it, and what it has to tell once it is committed.

Objects, intents and events are written at its end, or when the database is asked about them: what moves several times
in one commit is one row to write, and many rows of a kind are one statement.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import Connection, CursorResult, Executable, Insert, Table, Update, bindparam, insert, update

from dstack.domain.objects import Object
from dstack.errors import Conflict
from dstack.kit.clock import Clock
from dstack.kit.weighed import WeighedCache
from dstack.store import tables
from dstack.store.notices import Notices
from dstack.store.rows import Rows, T

ENDED_KNOWN_MAX = 1000

_Values: TypeAlias = Mapping[str, Any]


class Versioned:
    """What the writer keeps in `Tx.known` after another server has written: its parts have versions to compare."""

    is_stale = False
    """Whether it must be compared with the record before its next use."""


@dataclass(slots=True)
class Tx:
    """Where to read and write, and the time at which all of it happens."""

    conn: Connection
    clock: Clock
    rows: Mapping[type[Object], Rows[Any]]
    """How objects are on record, by type."""
    known: dict[tuple[str, str], Any] = field(default_factory=dict)
    """What was last read or written of objects, by kind and id. The writer keeps it from one commit to the next while
    nobody else writes; were it stale, the version of an object would tell."""
    lists: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Which objects belong together, by what and whose; kept like `known`."""
    ended: deque[tuple[str, str]] = field(default_factory=deque)
    """Which of `known` have ended, oldest first: they are asked about for a moment, and then hardly ever again."""
    seen: WeighedCache[tuple[str, str], Object] | None = None
    """Objects as earlier transactions have seen them. One is good only for a row of its version."""
    opened_at: datetime | None = None
    """When this server opened the database; None where that does not matter. It heard of nothing that was before."""
    notices: Notices = field(default_factory=Notices)
    wakes: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """Who is to be looked at, and when: the reactor's work, and what it leaves goes into the table."""
    changes: int = 0
    """Grows with everything that is to be written."""
    _objects: dict[tuple[str, str], tuple[Object | None, Object]] = field(default_factory=dict)
    """What is to be written: as it is on record (None for what is new), and as it should be."""
    _added: dict[Table, list[dict[str, Any]]] = field(default_factory=dict)
    _answered: list[dict[str, Any]] = field(default_factory=list)
    _events: list[dict[str, Any]] = field(default_factory=list)
    _over: list[Object] = field(default_factory=list)
    """What was written and has ended."""

    def select(self, statement: Executable, values: _Values | None = None) -> CursorResult[Any]:
        """What the database answers, this transaction's own writes among it."""
        self._write_what_waits()
        return self.conn.execute(statement, values)

    def peek(self, statement: Executable, values: _Values | None = None) -> CursorResult[Any]:
        """What the database answers where nothing that this transaction writes can matter: users, earlier events."""
        return self.conn.execute(statement, values)

    def change(self, statement: Executable, values: _Values | Sequence[_Values] | None = None) -> None:
        """Write what is not an object, an intent or an event; for each of several values where there are such."""
        self._write_what_waits()
        self.changes += 1
        self.conn.execute(statement, values)

    def unwritten(self, kind: type[T]) -> Iterator[T]:
        """The objects of a kind that wait to be written: what `peek` does not see."""
        return (new for _, new in self._objects.values() if isinstance(new, kind))

    def kind_of(self, thing: Object) -> str:
        """The name of an object's kind."""
        return self.rows[type(thing)].kind

    def put(self, new: Object, over: Object | None) -> None:
        """Write an object; `over` is how it was before, None where it is new."""
        who = self.kind_of(new), new.id
        self.changes += 1
        self.known[who] = new
        on_record = self._objects[who][0] if who in self._objects else over
        self._objects[who] = on_record, new

    def add(self, table: Table, row: dict[str, Any]) -> None:
        """Write a new row that belongs to an object, such as an intent."""
        self.changes += 1
        self._added.setdefault(table, []).append(row)

    def answer(self, row: dict[str, Any]) -> None:
        """Write what came of an intent."""
        self.changes += 1
        self._answered.append(row)

    def say(self, row: dict[str, Any]) -> None:
        """Write a line of history."""
        self.changes += 1
        self._events.append(row)

    def finish(self, keep_earlier: Insert) -> None:
        """Write all that waits to be written.

        Args:
            keep_earlier: inserts wakes, where a wake that is there and due earlier stays.
        """
        self._write_what_waits()
        if self._events:  # in the order they were said, so that their numbers follow it
            self.conn.execute(_EVENTS, self._events)
            self.notices.events = True
        if self.wakes:
            rows = [{"kind": kind, "id": id, "due_at": at} for (kind, id), at in self.wakes.items()]
            self.conn.execute(keep_earlier, rows)
            self.notices.next_due = min(self.wakes.values())
        self.ended.extend((self.kind_of(thing), thing.id) for thing in self._over)
        while len(self.ended) > ENDED_KNOWN_MAX:
            self._forget(*self.ended.popleft())

    def _forget(self, kind: str, id: str) -> None:
        self.known.pop((kind, id), None)
        self.known.pop((f"intents of {kind}", id), None)
        self.lists.pop((f"jobs of {kind}", id), None)

    def _write_what_waits(self) -> None:
        if self._objects:
            objects, self._objects = list(self._objects.values()), {}
            self._over += [new for _, new in objects if new.finished_at is not None]
            if self.seen is not None:
                for _, new in objects:
                    of_kind = self.rows[type(new)]
                    self.seen.put((of_kind.kind, new.id), new, of_kind.weight(new))
            self._insert([new for on_record, new in objects if on_record is None])
            self._update([(on_record, new) for on_record, new in objects if on_record is not None])
        if self._added:
            added, self._added = self._added, {}
            for table, rows in added.items():
                self.conn.execute(_insert_into(table), rows)
        if self._answered:
            answered, self._answered = self._answered, []
            self.conn.execute(_ANSWER, answered)

    def _insert(self, born: list[Object]) -> None:
        of_kind: dict[Rows[Any], list[dict[str, Any]]] = {}
        for one in born:
            rows = self.rows[type(one)]
            of_kind.setdefault(rows, []).append(rows.values(one))
        for rows in sorted(of_kind, key=lambda rows: rows.rank):
            self.conn.execute(rows.insert, of_kind[rows])

    def _update(self, changed: list[tuple[Object, Object]]) -> None:
        statements: dict[tuple[Rows[Any], tuple[str, ...]], list[dict[str, Any]]] = {}
        for old, new in changed:
            rows = self.rows[type(new)]
            values = rows.values(new, rows.changed(old, new))
            row = {**values, "of_id": old.id, "of_version": old.version}
            statements.setdefault((rows, tuple(values)), []).append(row)
        for (rows, columns), written in statements.items():
            if self.conn.execute(_update_of(rows.table, columns), written).rowcount != len(written):
                raise Conflict(f"Another writer changed a {rows.kind} during the decision")


_EVENTS = insert(tables.events)
_ANSWER = (
    update(tables.intents)
    .where(
        tables.intents.c.object_kind == bindparam("of_kind"),
        tables.intents.c.object_id == bindparam("of_id"),
        tables.intents.c.position == bindparam("of_position"),
    )
    .values(state=bindparam("state"), outcome=bindparam("outcome"))
)


@cache
def _insert_into(table: Table) -> Insert:
    return insert(table)


@cache
def _update_of(table: Table, columns: tuple[str, ...]) -> Update:
    """Built once for each set of columns: building a statement takes longer than running it."""
    of_version = (table.c.id == bindparam("of_id")) & (table.c.version == bindparam("of_version"))
    return update(table).where(of_version).values({name: bindparam(name) for name in columns})
