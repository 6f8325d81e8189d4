"""Drivers block, each in threads of its own; backends come, change and go while they are called."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dstack.backends.base import Backend
from dstack.backends.counts import SLOW_S, Counts, Verb, VerbCounts
from dstack.backends.registry import LAUNCHES_AT_ONCE, BackendRegistry
from dstack.domain.backends import BackendRecord
from dstack.domain.offers import Offer
from dstack.errors import BackendUnavailable, NoCapacityError
from tests.making import CLOUD, NOW, BareBackend
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
    backends = BackendRegistry({"aws": hanging, "gcp": other})
    asked = [
        asyncio.create_task(backends.call("aws", Verb.OFFERS, lambda cloud: cloud.offers(), timeout_s=PATIENCE_S))
        for _ in range(4 * LAUNCHES_AT_ONCE)
    ]
    async with asyncio.timeout(PATIENCE_S):
        assert await backends.call("gcp", Verb.OFFERS, lambda cloud: cloud.offers(), timeout_s=PATIENCE_S) == []
        assert await asyncio.to_thread(lambda: "stored") == "stored"
    hanging.may_answer.set()
    assert await asyncio.gather(*asked) == [[]] * len(asked)
    await backends.close()


async def test_a_call_that_takes_too_long_is_one_of_a_backend_that_does_not_answer(hanging: Cloud) -> None:
    backends = BackendRegistry({"aws": hanging})
    with pytest.raises(BackendUnavailable, match=r"The backend `aws` did not answer within 0\.01 s"):
        await backends.call("aws", Verb.OFFERS, lambda cloud: cloud.offers(), timeout_s=0.01)
    with pytest.raises(BackendUnavailable, match="The backend `gcp` is no longer configured"):
        await backends.call("gcp", Verb.OFFERS, lambda cloud: cloud.offers(), timeout_s=1)


@pytest.mark.parametrize(
    ("hangs", "goes_on"),
    [
        (Verb.LAUNCH, (Verb.TERMINATE, Verb.LOOK_UP, Verb.OFFERS, Verb.CHECK)),
        (Verb.LOOK_UP, (Verb.TERMINATE, Verb.LAUNCH)),
        (Verb.OFFERS, (Verb.TERMINATE, Verb.LAUNCH)),
    ],
)
async def test_calls_of_one_kind_that_hang_delay_no_others_of_the_same_backend(
    hanging: Cloud, hangs: Verb, goes_on: tuple[Verb, ...]
) -> None:
    backends = BackendRegistry({"aws": hanging})
    asked = [
        asyncio.create_task(backends.call("aws", hangs, lambda cloud: cloud.offers(), timeout_s=PATIENCE_S))
        for _ in range(4 * LAUNCHES_AT_ONCE)
    ]
    for verb in goes_on:
        assert await backends.call("aws", verb, lambda cloud: "done", timeout_s=PATIENCE_S) == "done"
    hanging.may_answer.set()
    await asyncio.gather(*asked)
    await backends.close()


async def test_backend_gets_another_driver_while_a_call_of_the_former_goes_on(hanging: Cloud, tmp_path: Path) -> None:
    backends, record = BackendRegistry(), BackendRecord("1-aws", "aws", "aws")
    backends.add(record, hanging)
    asked = [asyncio.create_task(backends.offers("1-aws", timeout_s=PATIENCE_S)) for _ in range(2 * LAUNCHES_AT_ONCE)]
    await asyncio.sleep(0)
    assert counts_of(backends, "1-aws", Verb.OFFERS).running == len(asked)
    other = Cloud(tmp_path)
    other.may_answer.set()
    backends.add(record, other)
    assert await backends.offers("1-aws", timeout_s=PATIENCE_S) == ()
    hanging.may_answer.set()
    assert await asyncio.gather(*asked) == [()] * len(asked)
    assert counts_of(backends, "1-aws", Verb.OFFERS).count == len(asked) + 1, "counts go on with the new driver"
    await backends.close()


async def test_call_of_a_backend_that_is_removed_meanwhile_goes_on(hanging: Cloud) -> None:
    backends = BackendRegistry({"aws": hanging})
    asked = [asyncio.create_task(backends.offers("aws", timeout_s=PATIENCE_S)) for _ in range(2 * LAUNCHES_AT_ONCE)]
    await asyncio.sleep(0)
    assert counts_of(backends, "aws", Verb.OFFERS).running == len(asked)
    backends.remove("aws")
    hanging.may_answer.set()
    assert await asyncio.gather(*asked) == [()] * len(asked)
    assert list(backends) == []


async def test_backend_without_a_driver_reports_why_it_cannot_be_used() -> None:
    backends = BackendRegistry()
    backends.add(BackendRecord("1-aws", "aws", "research"), None, "its credentials were encrypted with another key")
    with pytest.raises(BackendUnavailable, match="`research` cannot be used: its credentials were encrypted with"):
        await backends.call("1-aws", Verb.CHECK, lambda cloud: cloud.check(), timeout_s=1)


async def test_offers_carry_the_id_and_the_project_of_their_backend(tmp_path: Path) -> None:
    class Shop(BareBackend):
        def offers(self) -> Sequence[Offer]:
            return [CLOUD]

    backends = BackendRegistry({"aws": Shop(tmp_path)})
    backends.add(BackendRecord("1-aws", "aws", "research", project_id="0-project"), Shop(tmp_path))
    assert [(one.backend_id, one.project_id) for one in await backends.offers("aws", timeout_s=1)] == [("aws", None)]
    (scoped,) = await backends.offers("1-aws", timeout_s=1)
    assert (scoped.backend, scoped.backend_id, scoped.project_id) == ("aws", "1-aws", "0-project")
    assert scoped.name != CLOUD.name, "two accounts have limits of their own"


async def test_machines_of_a_projects_backend_serve_no_other_project(tmp_path: Path) -> None:
    class Shop(BareBackend):
        def offers(self) -> Sequence[Offer]:
            return [replace(CLOUD, for_all=True)]

    backends = BackendRegistry()
    for id, project in (("1-aws", None), ("2-aws", "0-project")):
        backends.add(BackendRecord(id, "aws", id, project_id=project), Shop(tmp_path))
    found = [offer.for_all for id in backends for offer in await backends.offers(id, timeout_s=1)]
    assert found == [True, False]


async def test_listener_hears_of_additions_changes_and_removals(tmp_path: Path) -> None:
    backends, heard = BackendRegistry(), list[tuple[str, list[str]]]()
    backends.listen(lambda id: heard.append((id, backends.selling())))
    record = BackendRecord("1-aws", "aws", "aws")
    backends.add(record, Cloud(tmp_path))
    backends.add(replace(record, closing_since=NOW), Cloud(tmp_path))
    backends.remove("1-aws")
    backends.remove("1-aws")
    sells = [["1-aws"], [], []]
    assert heard == [("1-aws", one) for one in sells], "a backend that is being removed sells nothing"


async def test_calls_are_counted_with_their_failures_and_durations(tmp_path: Path) -> None:
    def fail(cloud: Backend) -> None:
        raise OSError("connection refused")

    def sell_out(cloud: Backend) -> None:
        raise NoCapacityError("sold out")

    backends = BackendRegistry({"aws": Cloud(tmp_path)})
    for function in (fail, sell_out):
        with pytest.raises((OSError, NoCapacityError)):
            await backends.call("aws", Verb.LAUNCH, function, timeout_s=PATIENCE_S)
    counts = counts_of(backends, "aws", Verb.LAUNCH)
    assert (counts.count, counts.failed, counts.running) == (2, 1, 0), "a cloud that is sold out has answered"
    assert 0 <= counts.median_s <= counts.longest_s < PATIENCE_S


def test_log_reports_a_slow_verb_once_and_its_recovery_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    counts = Counts("The backend `aws`")
    for duration_s in (1.0, 400.0, 500.0, 2.0, 3.0):
        counts.begin(Verb.LAUNCH)
        if duration_s > SLOW_S[Verb.LAUNCH]:
            counts.note_slow(Verb.LAUNCH)
        counts.end(Verb.LAUNCH, duration_s, failed=False)
    assert [one.message for one in caplog.records] == [
        "The backend `aws` is slow: `launch` takes more than 120 s; the median is 1.0 s",
        "The backend `aws` is fast again: `launch` took 2.0 s",
    ]
    assert (counts.by_verb[Verb.LAUNCH].median_s, counts.by_verb[Verb.LAUNCH].longest_s) == (3.0, 500.0)


def counts_of(backends: BackendRegistry, id: str, verb: Verb) -> VerbCounts:
    found = backends.find(id)
    assert found is not None
    return found.counts.by_verb.get(verb, VerbCounts())


class Closed(BareBackend):
    """Notes when it is closed."""

    def __init__(self, data_dir: Path) -> None:
        self.may_answer = threading.Event()
        self.closed: list[str] = []

    def offers(self) -> Sequence[Offer]:
        self.may_answer.wait()
        self.closed.append("answered")
        return []

    def close(self) -> None:
        self.closed.append(threading.current_thread().name.rpartition("_")[0])


async def test_driver_that_is_replaced_or_removed_is_closed_in_its_lane_after_its_last_call(tmp_path: Path) -> None:
    backends, record = BackendRegistry(), BackendRecord("1-aws", "aws", "aws")
    first, second = Closed(tmp_path), Closed(tmp_path)
    backends.add(record, first)
    asked = asyncio.create_task(backends.offers("1-aws", timeout_s=PATIENCE_S))
    await asyncio.sleep(0)
    backends.add(record, second)
    assert first.closed == [] and second.closed == []
    first.may_answer.set()
    assert await asked == ()
    backends.remove("1-aws")
    await backends._tasks.finish()
    assert first.closed == ["answered", "backend-aws-closing"] and second.closed == ["backend-aws-closing"]
    await backends.close()
    assert len(first.closed) == 2 and len(second.closed) == 1


async def test_driver_that_was_tried_out_is_closed(tmp_path: Path) -> None:
    backends, tried = BackendRegistry(), Closed(tmp_path)
    assert await backends.try_out(BackendRecord("1-aws", "aws", "aws"), tried, timeout_s=PATIENCE_S)
    await backends._tasks.finish()
    assert tried.closed == ["backend-aws-closing"]


async def test_end_of_the_server_closes_all_drivers_and_waits_for_none_that_hangs(
    hanging: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dstack.backends.registry.CLOSE_TIMEOUT_S", 0.01)
    monkeypatch.setattr(hanging, "close", hanging.may_answer.wait, raising=False)
    other, broken = Closed(tmp_path), Closed(tmp_path)
    monkeypatch.setattr(broken, "close", lambda: 1 / 0)
    backends = BackendRegistry({"aws": hanging, "gcp": other, "oci": broken})
    asked = asyncio.create_task(backends.offers("aws", timeout_s=PATIENCE_S))
    await asyncio.sleep(0)
    await backends.close()
    assert other.closed == ["backend-gcp-closing"]
    assert "The driver of the backend aws was not closed within 0.01 s" in caplog.text
    assert "The driver of the backend oci could not be closed" in caplog.text
    hanging.may_answer.set()
    assert await asked == ()
