"""Tickets: a kind of object with a lifecycle of its own, on no instance. A new kind takes so much and no more.

A ticket is bought at a counter, is good for a while, and is returned.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar
from unittest.mock import patch

from sqlalchemy import Column, Integer, Row, String, Table, Text

from dstack.domain.intents import INTENTS, Done, Intent, Outcome
from dstack.domain.lifecycle import In, Lifecycle
from dstack.domain.objects import Next, Object
from dstack.engine.effects import PERFORMERS, Effects
from dstack.engine.lifecycles import LIFECYCLES
from dstack.kit.ids import Ids
from dstack.store import intents, tables
from dstack.store.kinds import KINDS
from dstack.store.kinds.kind import Kind
from dstack.store.rows import Rows
from dstack.store.tx import Tx

GOOD_FOR = timedelta(minutes=10)


class TicketStatus(StrEnum):
    WANTED = "wanted"
    GOOD = "good"
    RETURNING = "returning"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket(Object):
    status: TicketStatus = TicketStatus.WANTED
    seat: int | None = None


@dataclass(frozen=True, slots=True)
class TicketView:
    ticket: Ticket
    outcomes: Mapping[type[Intent], Outcome]
    now: datetime


@dataclass(frozen=True, slots=True)
class Buy(Intent):
    kind: ClassVar[str] = "buy_ticket"
    object_kind: ClassVar[str] = "ticket"


@dataclass(frozen=True, slots=True)
class GiveBack(Intent):
    kind: ClassVar[str] = "give_back_ticket"
    object_kind: ClassVar[str] = "ticket"


# The steps and their table.


def buy(view: TicketView) -> Next:
    match view.outcomes.get(Buy):
        case None:
            return Next(do=(Buy(view.ticket.id),))
        case Done(value):
            good = replace(view.ticket, status=TicketStatus.GOOD, status_since=view.now, seat=value["seat"])
            return Next((good,))
        case _:
            return Next()


def use(view: TicketView) -> Next:
    left = view.ticket.status_since + GOOD_FOR - view.now
    if left > timedelta(0):
        return Next(again=left)
    return Next((replace(view.ticket, status=TicketStatus.RETURNING, status_since=view.now),))


def give_back(view: TicketView) -> Next:
    if not isinstance(view.outcomes.get(GiveBack), Done):
        return Next(do=(GiveBack(view.ticket.id),))
    ended = replace(view.ticket, status=TicketStatus.RETURNED, status_since=view.now, finished_at=view.now)
    return Next((ended,))


_t = TicketStatus
LIFECYCLE: Lifecycle[TicketStatus, Any] = Lifecycle(
    "ticket",
    start=_t.WANTED,
    rows={
        _t.WANTED: In(buy, to=(_t.GOOD,)),
        _t.GOOD: In(use, to=(_t.RETURNING,)),
        _t.RETURNING: In(give_back, to=(_t.RETURNED,)),
    },
)

# The file in `store/kinds/`.


def _ticket_of(row: Row[Any]) -> Ticket:
    return Ticket(**{**row._mapping, "status": TicketStatus(row.status), "reason": None})


def _view_of(tx: Tx, ticket: Ticket, ids: Ids) -> TicketView:
    return TicketView(ticket, intents.outcomes_of(tx, "ticket", ticket.id), tx.clock.now())


def _table() -> Table:
    return Table(
        "tickets",
        tables.metadata,
        Column("id", String(36), primary_key=True),
        Column("project_id", String(36)),
        Column("status", String(20), nullable=False),
        Column("status_since", tables.Time, nullable=False),
        Column("seat", Integer),
        Column("reason", String(40)),
        Column("detail", Text, nullable=False),
        Column("finished_at", tables.Time),
        Column("version", Integer, nullable=False),
    )


# The world outside.


class Counters:
    """Sells a seat for each ticket; asked again it finds the one that it sold."""

    def __init__(self) -> None:
        self.sold: dict[str, int] = {}
        self.sales: Counter[str] = Counter()

    async def sell(self, effects: Effects, intent: Buy) -> Done:
        if intent.object_id not in self.sold:
            self.sold[intent.object_id] = len(self.sold)
            self.sales[intent.object_id] += 1
        return Done({"seat": self.sold[intent.object_id]})

    async def take_back(self, effects: Effects, intent: GiveBack) -> Done:
        self.sold.pop(intent.object_id, None)
        return Done({})


@contextmanager
def tickets_exist() -> Iterator[Counters]:
    """Let the server know of tickets."""
    table, counters = _table(), Counters()
    kind = Kind(Rows("ticket", Ticket, table, _ticket_of), title=lambda ticket: f"ticket {ticket.id}", view=_view_of)
    with ExitStack() as stack:
        stack.callback(tables.metadata.remove, table)
        for known, added in (
            (KINDS, {"ticket": kind}),
            (LIFECYCLES, {"ticket": LIFECYCLE}),
            (INTENTS, {Buy.kind: Buy, GiveBack.kind: GiveBack}),
            (PERFORMERS, {Buy: counters.sell, GiveBack: counters.take_back}),
        ):
            stack.enter_context(patch.dict(known, added))
        yield counters
