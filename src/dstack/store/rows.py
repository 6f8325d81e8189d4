"""The table of one kind of object: rows to domain values and back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any, Generic, TypeVar

from sqlalchemy import Insert, Row, Select, Table, bindparam, insert, select

from dstack.domain.objects import Object

T = TypeVar("T", bound=Object)
Column = Callable[[Any], dict[str, object]]
"""Gets a field's value, and returns the columns that hold it."""


@dataclass(frozen=True, eq=False)
class Rows(Generic[T]):
    """One kind of object on record. Statements are built once: building one takes longer than running it."""

    kind: str
    """The name of the kind, in wakes, events and intents."""
    type: type[T]
    table: Table
    read: Callable[[Row[Any]], T]
    columns: Mapping[str, Column] = field(default_factory=dict)
    """The fields that are not columns as they stand."""
    weight: Callable[[T], int] = lambda thing: 4_000
    """About how many bytes an object takes in memory."""

    @cached_property
    def by_id(self) -> Select[Any]:
        """The row of the object with the id `id`."""
        return select(self.table).where(self.table.c.id == bindparam("id"))

    @cached_property
    def by_ids(self) -> Select[Any]:
        """The rows of the objects with `ids`."""
        return select(self.table).where(self.table.c.id.in_(bindparam("ids", expanding=True)))

    @cached_property
    def heads(self) -> Select[Any]:
        """The ids and versions of the objects with `ids`."""
        of_ids = self.table.c.id.in_(bindparam("ids", expanding=True))
        return select(self.table.c.id, self.table.c.version).where(of_ids)

    @cached_property
    def unfinished(self) -> Select[Any]:
        """The ids of the objects that have not ended."""
        return select(self.table.c.id).where(self.table.c.finished_at.is_(None))

    @cached_property
    def insert(self) -> Insert:
        """A new row."""
        return insert(self.table)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields of the objects."""
        return tuple(one.name for one in fields(self.type))

    @cached_property
    def rank(self) -> int:
        """New rows are written in this order: a row may refer to rows of lower ranks."""
        return _rank_of(self.table)

    def values(self, thing: T, names: Iterable[str] | None = None) -> dict[str, object]:
        """Return the columns of an object: all, or those that hold some of its fields."""
        values: dict[str, object] = {}
        for name in names or self.names:
            value = getattr(thing, name)
            values.update(self.columns[name](value) if name in self.columns else {name: value})
        return values

    def changed(self, old: T, new: T) -> list[str]:
        """Return the fields in which an object differs from before."""
        return [name for name in self.names if getattr(new, name) != getattr(old, name)]


@cache
def _rank_of(table: Table) -> int:
    return max((1 + _rank_of(key.column.table) for key in table.foreign_keys), default=0)
