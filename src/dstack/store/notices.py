"""What a commit has to tell the living: in this process, and on other servers of the same database."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from dstack.domain.intents import Intent

IDS_PER_MESSAGE = 150
"""PostgreSQL carries messages of less than 8,000 bytes; an id has 36 characters, and quotes."""


@dataclass(frozen=True, slots=True)
class Open:
    """An intent that is still to be performed."""

    position: int
    """Its place among the intents of its object."""
    intent: Intent

    @property
    def owner(self) -> tuple[str, str]:
        """The object whose intents are performed one after the other."""
        return self.intent.object_kind, self.intent.object_id


@dataclass(slots=True)
class Notices:
    """Filled inside the transaction, published after it."""

    events: bool = False
    next_due: datetime | None = None
    """When the earliest wake that was left for later is due."""
    intents: list[Open] = field(default_factory=list)
    """What was decided to be done."""
    instances: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    """The ids of whatever else somebody may wait for: runs that got a job or ended, jobs with new log bytes."""
    asked: set[str] = field(default_factory=set)
    """The shard keys of intents that another server has committed."""
    everything: bool = False
    """Something may have been missed: look at all."""


def to_messages(notices: Notices) -> Iterator[str]:
    """What other servers have to hear, in pieces that are small enough."""
    asked = {open_intent.intent.shard_key for open_intent in notices.intents}
    lists = {"asked": asked, "instances": notices.instances, "changed": notices.changed}
    ids = [(name, id) for name, some in lists.items() for id in sorted(some)]
    head = {"events": notices.events, "due": notices.next_due.isoformat() if notices.next_due else None}
    if not ids and not notices.events and notices.next_due is None:
        return
    for start in range(0, max(len(ids), 1), IDS_PER_MESSAGE):
        some = ids[start : start + IDS_PER_MESSAGE]
        body = {name: [id for of, id in some if of == name] for name in lists}
        yield json.dumps({**head, **{name: its for name, its in body.items() if its}})


def of_message(message: str) -> Notices:
    """The notices in a message of another server."""
    body = json.loads(message)
    return Notices(
        events=body["events"],
        next_due=datetime.fromisoformat(body["due"]) if body["due"] else None,
        instances=set(body.get("instances", ())),
        changed=set(body.get("changed", ())),
        asked=set(body.get("asked", ())),
    )
