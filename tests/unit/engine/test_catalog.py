"""Which backends count as silent: one that failed to answer, never one that is just being asked."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from dstack.backends.threads import Backends
from dstack.domain.offers import Offer
from dstack.engine.catalog import Catalog
from dstack.errors import BackendUnavailable
from tests.making import CLOUD, BareBackend, HandClock
from tests.patience import PATIENCE_S


class Slow(BareBackend):
    """Answers a question only once it may, and fails while it is away."""

    offers_fresh_for = timedelta(seconds=2)

    def __init__(self, data_dir: Path) -> None:
        self.is_away = False
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()

    def offers(self) -> Sequence[Offer]:
        self.is_asked.set()
        assert self.may_answer.wait(PATIENCE_S)
        if self.is_away:
            raise BackendUnavailable("The cloud does not answer just now")
        return [CLOUD]


@pytest.fixture
def cloud(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


@pytest.fixture
def catalog(cloud: Slow, clock: HandClock) -> Iterator[Catalog]:
    backends = Backends({"aws": cloud})
    yield Catalog(backends, clock)
    cloud.may_answer.set()
    backends.close()


async def ask(catalog: Catalog, cloud: Slow) -> "asyncio.Task[Sequence[Offer]]":
    """A question that has reached the backend."""
    cloud.is_asked.clear()
    asking = asyncio.create_task(catalog.offers())
    assert await asyncio.to_thread(cloud.is_asked.wait, PATIENCE_S)
    return asking


async def test_backend_is_not_silent_while_it_is_asked_for_the_first_time(catalog: Catalog, cloud: Slow) -> None:
    asking = await ask(catalog, cloud)
    assert catalog.silent == set()
    cloud.may_answer.set()
    assert await asking == [CLOUD]
    assert catalog.silent == set()


async def test_backend_that_failed_is_silent_until_it_answers(catalog: Catalog, cloud: Slow, clock: HandClock) -> None:
    cloud.may_answer.set()
    await catalog.offers()
    clock.time += timedelta(seconds=3)
    cloud.is_away = True
    assert await catalog.offers() == [CLOUD], "its last offers stay"
    assert catalog.silent == {"aws"}
    cloud.is_away = False
    cloud.may_answer.clear()
    asking = await ask(catalog, cloud)
    assert catalog.silent == {"aws"}, "being asked is no answer"
    cloud.may_answer.set()
    await asking
    assert catalog.silent == set()


async def test_question_that_is_cancelled_makes_no_backend_silent(catalog: Catalog, cloud: Slow) -> None:
    asking = await ask(catalog, cloud)
    asking.cancel()
    await asyncio.wait([asking])
    assert catalog.silent == set()
