"""The outbox: what was decided to be done outside, in order, and what came of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from dstack.domain.intents import KINDS, Done, Failed, Intent, Outcome, Pending, intent_of, to_body
from dstack.errors import DstackError, error_of_code
from dstack.store import wakes
from dstack.store.db import Open, Tx
from dstack.store.tables import intents

_KNOWN = select(intents.c.seq, intents.c.state).where(intents.c.key == bindparam("key"))
_INSERT = insert(intents)
_OUTCOMES = (
    select(intents.c.kind, intents.c.state, intents.c.outcome)
    .where(intents.c.object_kind == bindparam("object_kind"), intents.c.object_id == bindparam("object_id"))
    .order_by(intents.c.seq)
)
_RECORD = (
    update(intents)
    .where(intents.c.seq == bindparam("of_seq"))
    .values(state=bindparam("state"), outcome=bindparam("outcome"))
)


def add(tx: Tx, intent: Intent) -> None:
    """Ask for it, unless exactly this was asked for already and has not failed."""
    body = to_body(intent)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    key = f"{intent.kind}/{intent.object_id}/{digest}"
    known = tx.conn.execute(_KNOWN, {"key": key}).one_or_none()
    if known is not None and known.state != "failed":
        return
    if known is not None:
        tx.conn.execute(delete(intents).where(intents.c.seq == known.seq))
    done = tx.conn.execute(
        _INSERT,
        {
            "key": key,
            "kind": intent.kind,
            "object_kind": intent.object_kind,
            "object_id": intent.object_id,
            "body": body,
            "state": "pending",
            "created_at": tx.clock.now(),
        },
    )
    (seq,) = done.inserted_primary_key or (0,)
    tx.notices.intents.append(Open(seq, intent))
    _outcomes_changed(tx, intent.object_kind, intent.object_id)


def list_open(tx: Tx) -> list[Open]:
    """What is still to be done, oldest first."""
    query = select(intents).where(intents.c.state == "pending").order_by(intents.c.seq)
    return [Open(row.seq, intent_of(row.kind, row.body)) for row in tx.conn.execute(query)]


def outcomes_of(tx: Tx, object_kind: str, object_id: str) -> Mapping[type[Intent], Outcome]:
    """What came of an object's intents: the latest of each kind."""
    known = tx.known.get((f"outcomes of {object_kind}", object_id))
    if isinstance(known, dict):
        return known
    rows = tx.conn.execute(_OUTCOMES, {"object_kind": object_kind, "object_id": object_id})
    outcomes = {KINDS[row.kind]: _outcome_of(row.state, row.outcome) for row in rows}
    tx.known[f"outcomes of {object_kind}", object_id] = outcomes
    return outcomes


def _outcomes_changed(tx: Tx, object_kind: str, object_id: str) -> None:
    tx.known.pop((f"outcomes of {object_kind}", object_id), None)


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
    state, body = ("done", outcome.value) if isinstance(outcome, Done) else ("failed", _error_body(outcome.error))
    tx.conn.execute(_RECORD, {"of_seq": open_intent.seq, "state": state, "outcome": body})
    _outcomes_changed(tx, *open_intent.owner)
    wakes.add(tx, *open_intent.owner)


def _error_body(error: DstackError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def forget(tx: Tx, object_kind: str, object_ids: Iterable[str]) -> None:
    """Delete the intents of objects that are deleted themselves."""
    mine = (intents.c.object_kind == object_kind) & intents.c.object_id.in_(list(object_ids))
    tx.conn.execute(delete(intents).where(mine))
