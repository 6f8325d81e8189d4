"""The outbox: what was decided to be done outside, in order, and what came of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, delete, select

from dstack.domain.intents import Done, Failed, Intent, Outcome, Pending, intent_of, to_body
from dstack.errors import DstackError, error_of_code
from dstack.store import wakes
from dstack.store.notices import Open
from dstack.store.tables import intents
from dstack.store.tx import Tx

_OF_OBJECT = (
    select(intents)
    .where(intents.c.object_kind == bindparam("object_kind"), intents.c.object_id == bindparam("object_id"))
    .order_by(intents.c.position)
)


_OF_OBJECTS = (
    select(intents)
    .where(
        intents.c.object_kind == bindparam("object_kind"),
        intents.c.object_id.in_(bindparam("object_ids", expanding=True)),
    )
    .order_by(intents.c.position)
)


@dataclass(frozen=True, slots=True)
class Asked:
    """An intent and what came of it so far."""

    position: int
    intent: Intent
    outcome: Outcome


def add(tx: Tx, intent: Intent) -> None:
    """Ask for it, unless exactly this was asked for already and has not failed. One with a number is asked for once."""
    asked = _asked_of(tx, intent.object_kind, intent.object_id)
    same = next((one for one in asked if one.intent == intent), None)
    if same is not None and (intent.replaces or not isinstance(same.outcome, Failed)):
        return
    position = asked[-1].position + 1 if asked else 0
    for one in [one for one in asked if one is same or _is_replaced(one, intent)]:
        tx.change(delete(intents).where(_is(one.intent, one.position)))
        asked.remove(one)
    asked.append(Asked(position, intent, Pending()))
    row = {"object_kind": intent.object_kind, "object_id": intent.object_id, "position": position}
    row |= {"shard_key": intent.shard_key, "kind": intent.kind, "body": to_body(intent)}
    tx.add(intents, {**row, "state": "pending", "outcome": None, "created_at": tx.clock.now()})
    tx.notices.intents.append(Open(position, intent))


def _is_replaced(before: Asked, by: Intent) -> bool:
    return by.replaces and type(before.intent) is type(by) and not isinstance(before.outcome, Pending)


def _is(intent: Intent, position: int) -> ColumnElement[bool]:
    return and_(
        intents.c.object_kind == intent.object_kind,
        intents.c.object_id == intent.object_id,
        intents.c.position == position,
    )


def list_open(tx: Tx) -> list[Open]:
    """What is still to be done, oldest first; of one object in its order."""
    query = select(intents).where(intents.c.state == "pending").order_by(intents.c.created_at, intents.c.position)
    return [Open(row.position, intent_of(row.kind, row.body)) for row in tx.select(query)]


def outcomes_of(tx: Tx, object_kind: str, object_id: str) -> Mapping[type[Intent], Outcome]:
    """What came of an object's intents: the latest of each kind."""
    return {type(one.intent): one.outcome for one in _asked_of(tx, object_kind, object_id)}


def nothing_asked(tx: Tx, object_kind: str, object_id: str) -> None:
    """Remember that an object is new: nothing was asked for it."""
    tx.known[f"intents of {object_kind}", object_id] = []


def _asked_of(tx: Tx, object_kind: str, object_id: str) -> list[Asked]:
    known = tx.known.get((f"intents of {object_kind}", object_id))
    if known is None:
        rows = tx.select(_OF_OBJECT, {"object_kind": object_kind, "object_id": object_id})
        known = [_asked_in(row) for row in rows]
        tx.known[f"intents of {object_kind}", object_id] = known
    asked: list[Asked] = known
    return asked


def read_ahead(tx: Tx, object_kind: str, object_ids: Sequence[str]) -> None:
    """Remember what was asked for of some objects, read in one statement."""
    asked: dict[str, list[Asked]] = {id: [] for id in object_ids if (f"intents of {object_kind}", id) not in tx.known}
    if asked:
        for row in tx.select(_OF_OBJECTS, {"object_kind": object_kind, "object_ids": list(asked)}):
            asked[row.object_id].append(_asked_in(row))
        tx.known.update({(f"intents of {object_kind}", id): its for id, its in asked.items()})


def _asked_in(row: Row[Any]) -> Asked:
    return Asked(row.position, intent_of(row.kind, row.body), _outcome_of(row.state, row.outcome))


def _outcome_of(state: str, body: dict[str, Any] | None) -> Outcome:
    match state:
        case "done":
            return Done(body or {})
        case "failed":
            assert body is not None
            return Failed(error_of_code(body["code"], body["message"], body["hint"]))
        case _:
            return Pending()


def record(tx: Tx, open_intent: Open, outcome: Done | Failed) -> None:
    """Store what came of an intent and wake its object."""
    kind, id = open_intent.owner
    state, body = ("done", outcome.value) if isinstance(outcome, Done) else ("failed", _error_body(outcome.error))
    tx.answer({"of_kind": kind, "of_id": id, "of_position": open_intent.position, "state": state, "outcome": body})
    asked: list[Asked] = tx.known.get((f"intents of {kind}", id), [])
    for index, one in enumerate(asked):
        if one.position == open_intent.position:
            asked[index] = Asked(one.position, one.intent, outcome)
    tx.notices.changed.add(id)
    wakes.add(tx, kind, id)


def _error_body(error: DstackError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def forget(tx: Tx, object_kind: str, object_ids: Iterable[str]) -> None:
    """Delete the intents of objects that are deleted themselves."""
    mine = (intents.c.object_kind == object_kind) & intents.c.object_id.in_(list(object_ids))
    tx.change(delete(intents).where(mine))
