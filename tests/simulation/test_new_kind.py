"""A kind of object that the server has never heard of lives through crashes, by its file, its table and its steps."""

import asyncio
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import pytest

from dstack.domain.lifecycle import In
from dstack.domain.objects import Next
from dstack.engine import turn
from dstack.engine.lifecycles import check_move
from dstack.operations.context import Context
from dstack.store import commits, objects
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.crashes import Decide, at_point, never, points_of_calls
from dstack.testing.faults import DatabaseBusy, DeafServers, Fault, Faults, ServerCrashes, ServerPauses, ServerUpdates
from dstack.testing.time import VirtualLoop
from dstack.testing.world import make_world, world_folder
from tests.simulation.tickets import LIFECYCLE, Counters, Ticket, TicketStatus, TicketView, tickets_exist

ENDS_WITHIN_S = 6 * 3600.0


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def counters() -> Iterator[Counters]:
    with tickets_exist() as made:
        yield made


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a world: the violations, the points of one server, and the lines of history."""

    violations: list[str]
    points: int
    lines: list[str]


def live(
    tickets: int, faults: tuple[Fault, ...] = (), *, dies: Decide | None = None, seed: int = 0, servers: int = 1
) -> Life:
    """Let some tickets be wanted, and wait for their end."""
    with world_folder() as folder, asyncio.Runner(loop_factory=lambda: VirtualLoop(points_of_calls)) as runner:
        return runner.run(_live(folder, tickets, Faults(faults), random.Random(seed), dies, servers))


async def _live(
    folder: Path, tickets: int, faults: Faults, chance: random.Random, dies: Decide | None, servers: int
) -> Life:
    world = await make_world(folder, {}, faults, chance, dies, servers)
    background = world.start()
    for number in range(tickets):
        await world.server.ask(lambda context, user, id=f"ticket-{number}": want(context, user, id))  # type: ignore[misc]
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            while not world.watch.is_all_over:
                await world.watch.next_move()
    except TimeoutError:
        world.watch.told("everybody", "loses patience")
    world.watch.look_at_the_end()
    lines = [line.what for line in world.watch.story()]
    life = Life([str(one) for one in world.watch.violations], world.servers[0].switch.points, lines)
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    world.close()
    return life


async def want(context: Context, user: User, id: str) -> None:
    """Put a ticket on record, unless it is there."""

    def write(tx: Tx) -> None:
        if objects.find(tx, Ticket, id) is None:
            commits.commit(tx, Next((Ticket(id=id, project_id=None, status_since=tx.clock.now()),)), check_move)

    await context.db.write(write)


def test_it_lives_and_ends_wherever_the_server_dies(counters: Counters) -> None:
    points = live(1, dies=never).points
    assert points > 20
    for point in range(1, points + 1):
        counters.sales.clear()
        assert live(1, dies=at_point(point)).violations == [], f"point {point}"
        assert (counters.sold, sorted(counters.sales.values())) == ({}, [1]), f"point {point}"


@pytest.mark.parametrize("servers", [1, 2, 3])
def test_it_lives_through_what_befalls_servers(counters: Counters, servers: int) -> None:
    among = (ServerPauses(), ServerUpdates(), DeafServers()) if servers > 1 else ()
    for seed in range(3):
        counters.sales.clear()
        faults = (ServerCrashes(probability=0.05, at_most=20), DatabaseBusy(), *among)
        life = live(3, faults, seed=seed, servers=servers)
        assert life.violations == []
        assert (counters.sold, sorted(counters.sales.values())) == ({}, [1, 1, 1])


def test_its_moves_are_history(counters: Counters) -> None:
    told = [line for line in live(1, dies=never).lines if "ticket-0" in line]
    assert told == ["ticket ticket-0 is good", "ticket ticket-0 is returning", "ticket ticket-0 is returned"]


def test_a_move_that_its_table_lacks_is_a_violation(counters: Counters) -> None:
    def skip(view: TicketView) -> Next:
        ended = replace(view.ticket, status=TicketStatus.RETURNED, status_since=view.now, finished_at=view.now)
        return Next((ended,))

    skips = {TicketStatus.WANTED: In(skip, to=(TicketStatus.GOOD,))}
    with patch.dict(LIFECYCLE.rows, skips), patch.object(turn, "check_move", lambda *_: None):
        broken = live(1, dies=never).violations
    assert "ticket may not go from wanted to returned" in broken[0]
