"""Fixtures for tests of the data plane."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.proxy.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.tasks.close()
