"""What tests of the data plane can ask for."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.proxy.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.tasks.close()
