"""Which machines have a link: after whatever was missed, too."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import cast

import pytest

from dstack.domain.objects import Instance, Next
from dstack.engine.leases import Leases
from dstack.engine.lifecycles import check_move
from dstack.engine.links import Links
from dstack.hosts.inbox import Inbox
from dstack.hosts.link import Link
from dstack.kit.clock import SystemClock
from dstack.store import commits
from dstack.store.db import Database
from dstack.store.notices import Notices
from tests.making import at_once, instance
from tests.patience import PATIENCE_S


class Nowhere:
    """The way to an agent that does not answer."""

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        raise OSError("nobody there")


class Deaf:
    """Hears no agent."""

    async def disconnected(self, instance_id: str) -> None: ...


def link_to_nowhere(instance: Instance, epoch: int) -> Link:
    return Link(instance.id, Nowhere(), cast(Inbox, Deaf()), SystemClock(), epoch, at_once())


@pytest.fixture
async def links(db: Database) -> AsyncIterator[Links]:
    leases = Leases(db, SystemClock(), "0-server", "here", alone=True)
    made = Links(db, SystemClock(), leases, link_to_nowhere)
    await leases.start()
    yield made
    await made.close()


async def test_a_machine_that_came_while_nothing_was_heard_gets_its_link(db: Database, links: Links) -> None:
    await db.write(lambda tx: commits.commit(tx, Next((instance(version=0),)), check_move))
    links.start()
    assert links.find("0-instance") is None
    links._hear(Notices(everything=True))
    async with asyncio.timeout(PATIENCE_S):
        while links.find("0-instance") is None:  # noqa: ASYNC110 - from outside there is nothing to wait for
            await asyncio.sleep(0.01)
