"""Drivers block, each in threads of its own."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dstack.backends.threads import CALLS_AT_ONCE, Backends
from dstack.domain.offers import Offer
from dstack.errors import BackendUnavailable
from tests.making import BareBackend
from tests.patience import PATIENCE_S


class Cloud(BareBackend):
    """Answers once it may."""

    def __init__(self, data_dir: Path) -> None:
        self.may_answer = threading.Event()

    def offers(self) -> Sequence[Offer]:
        self.may_answer.wait()
        return []


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path)
    yield cloud
    cloud.may_answer.set()


async def test_a_backend_that_hangs_holds_up_neither_another_nor_the_storage(hanging: Cloud, tmp_path: Path) -> None:
    other = Cloud(tmp_path)
    other.may_answer.set()
    backends = Backends({"aws": hanging, "gcp": other})
    asked = [
        asyncio.create_task(backends.call("aws", lambda cloud: cloud.offers(), timeout_s=PATIENCE_S))
        for _ in range(4 * CALLS_AT_ONCE)
    ]
    async with asyncio.timeout(PATIENCE_S):
        assert await backends.call("gcp", lambda cloud: cloud.offers(), timeout_s=PATIENCE_S) == []
        assert await asyncio.to_thread(lambda: "stored") == "stored"
    hanging.may_answer.set()
    assert await asyncio.gather(*asked) == [[]] * len(asked)
    backends.close()


async def test_a_call_that_takes_too_long_is_one_of_a_backend_that_does_not_answer(hanging: Cloud) -> None:
    backends = Backends({"aws": hanging})
    with pytest.raises(BackendUnavailable, match=r"The backend `aws` did not answer within 0\.01 s"):
        await backends.call("aws", lambda cloud: cloud.offers(), timeout_s=0.01)
    with pytest.raises(BackendUnavailable, match="The backend `gcp` is no longer configured"):
        await backends.call("gcp", lambda cloud: cloud.offers(), timeout_s=1)


async def test_ends_of_machines_wait_for_no_other_call_of_the_same_backend(hanging: Cloud) -> None:
    backends = Backends({"aws": hanging})
    asked = [
        asyncio.create_task(backends.call("aws", lambda cloud: cloud.offers(), timeout_s=PATIENCE_S))
        for _ in range(4 * CALLS_AT_ONCE)
    ]
    ended = await backends.call("aws", lambda cloud: "ended", timeout_s=PATIENCE_S, ends_machine=True)
    hanging.may_answer.set()
    await asyncio.gather(*asked)
    backends.close()
    assert ended == "ended"
