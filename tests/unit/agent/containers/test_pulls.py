"""Pulls beside each other: which of them has stalled, and which only waits for its turn."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from dstack.agent.containers.api import ContainerEngine
from dstack.agent.containers.images import Pulls
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container

STALL_S = 100.0
ALMOST_S = 90.0


class Engine:
    """An engine of which a test says what it tells of each image."""

    def __init__(self) -> None:
        self.told: dict[str, asyncio.Queue[dict[str, Any] | None]] = {}
        self.now_s = asyncio.get_running_loop().time()
        asyncio.get_running_loop().time = lambda: self.now_s  # type: ignore[method-assign]
        self.pulls = Pulls(cast(ContainerEngine, self), STALL_S)

    async def lines(
        self, method: str, path: str, *, query: dict[str, str], **_: object
    ) -> AsyncIterator[dict[str, Any]]:
        while (line := await self.told[query["fromImage"]].get()) is not None:
            yield line

    async def start(self, image: str) -> "asyncio.Task[None]":
        self.told[image] = asyncio.Queue()
        pull = asyncio.create_task(self.pulls.pull(Container(image), lambda layers: None), name=image)
        await settle()
        return pull

    async def say(self, image: str, status: str, current: int | None = None) -> None:
        detail = {} if current is None else {"progressDetail": {"current": current, "total": 1000}}
        self.told[image].put_nowait({"id": f"layer of {image}", "status": status, **detail})
        await settle()

    async def end(self, image: str) -> None:
        self.told[image].put_nowait(None)
        await settle()

    async def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        await settle()


async def settle() -> None:
    """Let everything that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def waiting(engine: Engine, image: str) -> "asyncio.Task[None]":
    pull = await engine.start(image)
    await engine.say(image, "Pulling fs layer")
    await engine.say(image, "Waiting")
    return pull


async def downloading(engine: Engine, image: str) -> "asyncio.Task[None]":
    pull = await engine.start(image)
    await engine.say(image, "Pulling fs layer")
    await engine.say(image, "Downloading", 1)
    return pull


async def assert_stalled(pull: "asyncio.Task[None]") -> None:
    assert pull.done()
    with pytest.raises(
        AgentRefused, match=f"The pull of the image `{pull.get_name()}` stalled: nothing came for 100 s"
    ):
        await pull


async def test_a_pull_that_waits_for_its_turn_has_not_stalled_while_another_moves(engine: Engine) -> None:
    large, small = await downloading(engine, "large"), await waiting(engine, "small")
    for count in range(5):
        await engine.pass_time(ALMOST_S)
        await engine.say("large", "Downloading", 100 + count)
    await engine.end("large")
    await large
    await engine.pass_time(ALMOST_S)
    await engine.say("small", "Downloading", 1)
    await engine.end("small")
    await small


async def test_a_pull_that_has_its_turn_stalls_whatever_the_others_do(engine: Engine) -> None:
    large, stuck = await downloading(engine, "large"), await downloading(engine, "stuck")
    for count in range(2):
        await engine.pass_time(ALMOST_S)
        await engine.say("large", "Downloading", 100 + count)
    await assert_stalled(stuck)
    await engine.end("large")
    await large


async def test_who_waits_behind_a_pull_that_stalls_has_its_turn_then(engine: Engine) -> None:
    small, stuck = await waiting(engine, "small"), await downloading(engine, "stuck")
    await engine.pass_time(STALL_S + 1)
    await assert_stalled(stuck)
    await engine.pass_time(ALMOST_S)
    await engine.say("small", "Downloading", 1)
    await engine.end("small")
    await small


async def test_a_pull_that_waits_while_nothing_moves_has_stalled(engine: Engine) -> None:
    alone = await waiting(engine, "alone")
    await engine.pass_time(STALL_S + 1)
    await assert_stalled(alone)


async def test_two_pulls_that_wait_for_somebody_elses_do_not_keep_each_other_waiting(engine: Engine) -> None:
    pulls = [await waiting(engine, image) for image in ("one", "two")]
    for _ in range(4):
        await engine.pass_time(STALL_S + 1)
    for pull in pulls:
        await assert_stalled(pull)
