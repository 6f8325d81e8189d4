"""The sweep: one server of a database wakes all that is unfinished."""

import asyncio
from typing import cast

import pytest

from dstack.domain.objects import Next
from dstack.engine.leases import Leases
from dstack.engine.lifecycles import check_move
from dstack.engine.loop import SWEEP, Engine
from dstack.kit.ids import RandomIds
from dstack.operations.context import Context
from dstack.store import commits
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.making import HandClock, instance


class Shards:
    """The leases of a server that owns these keys alone."""

    def __init__(self, *keys: str) -> None:
        self._keys = keys

    def owns(self, key: str) -> bool:
        return key in self._keys


class OneRound(HandClock):
    """Ends a task that rests."""

    async def sleep(self, span: object) -> None:
        raise asyncio.CancelledError


@pytest.mark.parametrize("owned", [[SWEEP], []])
async def test_only_the_owner_of_the_sweep_wakes_what_is_unfinished(
    owned: list[str], db: Database, context: Context
) -> None:
    def fill(tx: Tx) -> None:
        commits.commit(tx, Next((instance(version=0),)), check_move)
        tx.wakes.clear()

    await db.write(fill)
    woken: list[tuple[str, str]] = []
    db.react(lambda tx: woken.extend(tx.wakes))
    clock = OneRound()
    engine = Engine(db, clock, RandomIds(clock), context.catalog, cast(Leases, Shards(*owned)))
    with pytest.raises(asyncio.CancelledError):
        await engine._sweep()
    assert (("instance", "0-instance") in woken) == bool(owned)
