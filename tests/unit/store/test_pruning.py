"""What is forgotten in time, and what never."""

from datetime import timedelta

from sqlalchemy import func, select

from dstack.domain.intents import Done, LetIn, StopJob
from dstack.domain.objects import Next
from dstack.protocol.statuses import JobStatus
from dstack.store import commits, intents
from dstack.store.db import Database
from dstack.store.events import add_line
from dstack.store.notices import Open
from dstack.store.pruning import prune_events, prune_intents
from dstack.store.tables import events
from dstack.store.tables import intents as table
from dstack.store.tx import Tx
from tests.making import NOW, HandClock, job, run

LATER = NOW + timedelta(days=2)


async def left(db: Database) -> list[str]:
    return sorted(await db.read(lambda tx: [row.object_id for row in tx.select(table.select())]))


def live_and_ended(tx: Tx) -> None:
    over = job(id="over", version=0, status=JobStatus.DONE, finished_at=NOW)
    open_still = job(id="open", version=0, status=JobStatus.DONE, finished_at=NOW)
    commits.add_run(tx, run(), [job(id="live", version=0)], actor="user ada")
    commits.commit(tx, Next((over, open_still)), lambda *_: None)
    for id in ("over", "open", "live"):
        stop = StopJob(id, "0-instance", 1.0)
        intents.add(tx, stop)
        if id != "open":
            intents.record(tx, Open(0, stop), Done({}))


async def test_what_was_done_is_forgotten_once_its_object_has_ended_and_no_sooner(db: Database) -> None:
    await db.write(live_and_ended)
    assert await db.write(lambda tx: prune_intents(tx, NOW)) == 0, "it was done just now"
    assert await db.write(lambda tx: prune_intents(tx, LATER)) == 1
    assert await left(db) == ["live", "open"]


async def test_keys_that_were_let_in_are_forgotten(db: Database) -> None:
    grant = LetIn("a-grant", "0-instance", "live", "a key")

    def let_in(tx: Tx) -> None:
        intents.add(tx, grant)
        intents.record(tx, Open(0, grant), Done({}))

    await db.write(let_in)
    assert await db.write(lambda tx: prune_intents(tx, LATER)) == 1
    assert await left(db) == []


async def test_of_history_the_old_part_is_forgotten(db: Database, clock: HandClock) -> None:
    def say(tx: Tx) -> None:
        add_line(tx, actor="engine", kind="machine.orphan_ended", message="ended the machine i-1")

    await db.write(say)
    clock.time += timedelta(days=10)
    await db.write(say)
    assert await db.write(lambda tx: prune_events(tx, NOW + timedelta(days=5))) == 1
    assert await db.read(lambda tx: tx.select(select(func.count()).select_from(events)).scalar()) == 1
