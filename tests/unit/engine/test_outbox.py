"""The outbox performs intents in lanes: a cloud that hangs delays neither another cloud nor its own terminations."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import cast

import pytest

from dstack.domain.intents import Done, Failed, Intent, LaunchMachine, StopJob, TerminateMachine
from dstack.engine.effects import Effects
from dstack.engine.leases import Leases
from dstack.engine.outbox import AT_ONCE, Outbox
from dstack.errors import Unanswered
from dstack.kit.clock import SystemClock
from dstack.store import intents
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.patience import PATIENCE_S


class Hands:
    """Performs everything at once but launches at `slow`, which hang."""

    def __init__(self) -> None:
        self.performed: list[Intent] = []
        self.hanging = 0
        self.changed = asyncio.Event()

    async def perform(self, intent: Intent) -> Done:
        if intent.lane == "launches at slow":
            self.hanging += 1
            await asyncio.Event().wait()
        self.performed.append(intent)
        self.changed.set()
        return Done({})


@pytest.fixture
async def hands(db: Database) -> AsyncIterator[Hands]:
    hands, clock = Hands(), SystemClock()
    leases = Leases(db, clock, "0-server", "here", alone=True)
    outbox = Outbox(db, cast(Effects, hands), clock, leases)
    outbox.start()
    await leases.start()
    yield hands
    await outbox.close()
    await leases.close()


async def test_launches_that_hang_delay_no_other_lane(db: Database, hands: Hands) -> None:
    others = [LaunchMachine("other", "quick"), TerminateMachine("ending", "slow"), StopJob("0-job", "0-instance", 1.0)]

    def ask(tx: Tx) -> None:
        for number in range(2 * AT_ONCE):
            intents.add(tx, LaunchMachine(f"slow-{number}", "slow"))
        for intent in others:
            intents.add(tx, intent)

    await db.write(ask)
    async with asyncio.timeout(PATIENCE_S):
        while len(hands.performed) < len(others):
            hands.changed.clear()
            await hands.changed.wait()
    assert set(hands.performed) == set(others)
    assert hands.hanging == AT_ONCE, "the calls of a lane are bounded"


async def test_launches_that_hang_or_wait_for_their_lane_fail_at_their_bound(
    db: Database, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LaunchMachine, "within", timedelta(milliseconds=50))
    ids = [f"slow-{number}" for number in range(AT_ONCE + 1)]

    def ask(tx: Tx) -> None:
        for id in ids:
            intents.add(tx, LaunchMachine(id, "slow"))

    def outcomes(tx: Tx) -> list[object]:
        return [intents.outcomes_of(tx, "instance", id)[LaunchMachine] for id in ids]

    await db.write(ask)
    async with asyncio.timeout(PATIENCE_S):
        while not all(isinstance(one, Failed) for one in await db.read(outcomes)):
            await db.read(lambda tx: None)
    (failed, *_) = await db.read(outcomes)
    assert isinstance(failed, Failed) and isinstance(failed.error, Unanswered)
