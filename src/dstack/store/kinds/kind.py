"""All that the store and the engine know of one kind of object with a lifecycle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from dstack.kit.ids import Ids
from dstack.store.rows import Rows, T
from dstack.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Place:
    """The run and the instance that an event about an object concerns."""

    run_id: str | None = None
    instance_id: str | None = None


def _nowhere(thing: Any) -> Place:
    return Place()


def _nobody(tx: Tx, *things: Any) -> None:
    pass


def _read_nothing(tx: Tx, ids: Sequence[str]) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Kind(Generic[T]):
    """One kind of object: its rows, its name for people, its view, and all that depends on it."""

    rows: Rows[T]
    title: Callable[[T], str]
    """The object in a sentence: `job 0/1 attempt 2`."""
    view: Callable[[Tx, T, Ids], Any]
    """All that a step of the kind's lifecycle may look at, read in one transaction."""
    read_ahead: Callable[[Tx, Sequence[str]], None] = _read_nothing
    """Reads what the views of many objects have in common, in a few statements: one by one takes several for each."""
    place: Callable[[T], Place] = _nowhere
    born: Callable[[Tx, T], None] = _nobody
    """Wakes everything that depends on a new object, and keeps the writer's memory true."""
    changed: Callable[[Tx, T, T], None] = _nobody
    """The same for an object that has changed: gets the new one and the old one."""
