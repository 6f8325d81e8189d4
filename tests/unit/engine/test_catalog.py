"""The catalog asks backends in the background: calls wait for no cloud, and a failure keeps the last offers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from dstack.backends.base import Abilities, Backend
from dstack.backends.registry import BackendRegistry
from dstack.domain.backends import BackendRecord
from dstack.domain.offers import Offer
from dstack.engine.catalog import FIRST_PAUSE, LONGEST_PAUSE, UNKNOWN, BackendState, Catalog
from dstack.errors import BackendUnavailable
from dstack.kit.ids import RandomIds
from dstack.protocol.agent import HostResources
from dstack.testing.time import VirtualClock, VirtualLoop
from tests.making import CLOUD, HERE, NOW, BareBackend, HandClock
from tests.patience import PATIENCE_S


class Cloud(BareBackend):
    """Has something on sale, or fails."""

    def __init__(self, *on_sale: Offer) -> None:
        self.on_sale: Sequence[Offer] = on_sale
        self.is_away = False
        self.questions = 0

    def offers(self) -> Sequence[Offer]:
        self.questions += 1
        if self.is_away:
            raise BackendUnavailable("The cloud is away")
        return self.on_sale


class Silent(BareBackend):
    """Never answers until it may."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()

    def offers(self) -> Sequence[Offer]:
        self.is_asked.set()
        assert self.may_answer.wait(PATIENCE_S)
        return []


class Cheap(Cloud):
    abilities = Abilities(lists_cheaply=True, offers_fresh_for=timedelta(seconds=2))


def virtually(work: Callable[[Callable[..., Catalog]], object]) -> None:
    """Run a coroutine function in virtual time; it gets a way to make a catalog of clouds."""

    async def run() -> None:
        made: list[Catalog] = []

        def catalog_of(**clouds: Backend) -> Catalog:
            clock = VirtualClock(asyncio.get_running_loop())
            catalog = Catalog(BackendRegistry(clouds), clock, RandomIds(clock))
            made.append(catalog)
            catalog.start()
            return catalog

        await work(catalog_of)  # type: ignore[misc]
        for catalog in made:
            await catalog.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def names(catalog: Catalog) -> list[str]:
    market = catalog.snapshot()
    return [offer.instance_type for offer in market.select(market.everything)]


@pytest.fixture
def silent() -> Iterator[Silent]:
    cloud = Silent()
    yield cloud
    cloud.may_answer.set()


@pytest.fixture
async def beside_silent(silent: Silent, clock: HandClock) -> AsyncIterator[Catalog]:
    backends = BackendRegistry({"aws": silent, "local": Cheap(HERE)})
    catalog = Catalog(backends, clock, RandomIds(clock))
    catalog.start()
    yield catalog
    silent.may_answer.set()
    await catalog.close()
    await backends.close()


async def test_call_waits_for_no_cloud_that_never_answers(beside_silent: Catalog, silent: Silent) -> None:
    assert await asyncio.to_thread(silent.is_asked.wait, PATIENCE_S)
    for _ in range(3):
        market = await beside_silent.market()
        assert market.select(market.everything) == [HERE]
    assert beside_silent.absent() == {"aws": UNKNOWN}
    assert beside_silent.silent == set(), "a backend that is being asked for the first time is not silent"


def test_backend_that_fails_keeps_its_last_offers_and_is_marked() -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        cloud = Cloud(CLOUD)
        catalog = catalog_of(aws=cloud)
        await asyncio.sleep(1)
        assert (names(catalog), catalog.silent, catalog.absent()) == (["m5.large"], set(), {})
        cloud.is_away = True
        await asyncio.sleep(60)
        assert (names(catalog), catalog.silent) == (["m5.large"], {"aws"})
        state = catalog.states["aws"]
        assert (state.stale, state.error) == (True, "The cloud is away")
        assert catalog.absent()["aws"] == (
            "the backend does not answer (The cloud is away); its offers are of 2030-01-01 00:00:00 UTC"
        )
        cloud.is_away = False
        await asyncio.sleep(FIRST_PAUSE.total_seconds() * 3)
        assert (catalog.silent, catalog.states["aws"].stale) == (set(), False)

    virtually(story)


def test_backend_that_cannot_be_called_is_reported_with_its_fault_alone() -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        catalog = catalog_of()
        catalog._backends.add(BackendRecord("1-row", "aws", "mine"), None, "its credentials cannot be decrypted")
        await asyncio.sleep(1)
        assert catalog.absent() == {"mine": "the backend cannot be used (its credentials cannot be decrypted)"}

    virtually(story)


def test_backend_that_fails_is_asked_more_and_more_seldom() -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        cloud = Cloud()
        cloud.is_away = True
        catalog_of(aws=cloud)
        await asyncio.sleep(LONGEST_PAUSE.total_seconds())
        soon = cloud.questions
        await asyncio.sleep(LONGEST_PAUSE.total_seconds())
        assert 4 <= soon <= 12
        assert 1 <= cloud.questions - soon <= 3

    virtually(story)


def test_new_version_only_where_offers_have_changed() -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        cloud = Cloud(CLOUD)
        catalog = catalog_of(aws=cloud)
        heard: list[int] = []
        catalog.listen(lambda: heard.append(catalog.snapshot().version))
        await asyncio.sleep(150)
        assert (cloud.questions, heard) == (3, [1])
        cloud.on_sale = [replace(CLOUD, price=0.2)]
        await asyncio.sleep(60)
        assert heard == [1, 2]

    virtually(story)


def test_backends_are_added_and_removed_at_run_time() -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        catalog = catalog_of(aws=Cloud(CLOUD))
        other = Cloud(replace(CLOUD, backend="gcp", instance_type="n2"))
        catalog._backends.add(BackendRecord("1-row", "gcp", "gcp"), other)
        await asyncio.sleep(1)
        assert names(catalog) == ["m5.large", "n2"]
        changed = Cloud(replace(CLOUD, backend="gcp", instance_type="n1"))
        catalog._backends.add(BackendRecord("1-row", "gcp", "gcp"), changed)
        await asyncio.sleep(1)
        assert names(catalog) == ["m5.large", "n1"]
        catalog._backends.remove("1-row")
        await asyncio.sleep(1)
        assert names(catalog) == ["m5.large"]
        asked = other.questions
        await asyncio.sleep(600)
        assert other.questions == asked

    virtually(story)


@pytest.mark.parametrize("is_away", [False, True])
def test_offers_of_former_credentials_are_forgotten_once_the_backend_was_asked_with_new_ones(is_away: bool) -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        catalog = catalog_of(aws=Cloud(CLOUD))
        record = BackendRecord("1-row", "gcp", "gcp")
        catalog._backends.add(record, Cloud(replace(CLOUD, backend="gcp", instance_type="n2")))
        await asyncio.sleep(1)
        changed = Cloud()
        changed.is_away = is_away
        catalog._backends.add(record, changed)
        await asyncio.sleep(1)
        assert names(catalog) == ["m5.large"]

    virtually(story)


def test_cheap_backend_rests_while_no_call_needs_its_offers() -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        here = Cheap(HERE)
        catalog = catalog_of(local=here)
        await asyncio.sleep(3600)
        assert here.questions == 1
        here.on_sale = [replace(HERE, instance_type="with engine")]
        market = await catalog.market()
        assert [offer.instance_type for offer in market.select(market.everything)] == ["with engine"]
        await catalog.market()
        assert here.questions == 2, "the list is two seconds old at most"

    virtually(story)


def test_hidden_backend_is_not_on_sale_from_the_next_moment() -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        catalog = catalog_of(local=Cheap(HERE), aws=Cloud(CLOUD))
        await asyncio.sleep(1)
        catalog.hide("local")
        assert names(catalog) == ["m5.large"]
        catalog.hide("local", is_hidden=False)
        assert names(catalog) == ["local", "m5.large"]

    virtually(story)


def test_bug_of_a_driver_disturbs_no_other_backend() -> None:
    class Broken(BareBackend):
        def __init__(self) -> None: ...

        def offers(self) -> Sequence[Offer]:
            raise KeyError("price")

    async def story(catalog_of: Callable[..., Catalog]) -> None:
        catalog = catalog_of(aws=Broken(), gcp=Cloud(CLOUD))
        await asyncio.sleep(1)
        assert (names(catalog), catalog.silent) == (["m5.large"], {"aws"})

    virtually(story)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(CLOUD, price=float("nan")),
        replace(CLOUD, resources=HostResources(2, 8192, 102_400, gpus=[])),  # type: ignore[arg-type]
    ],
)
def test_offers_that_cannot_be_compared_keep_no_other_backend_off_the_market(wrong: Offer) -> None:
    async def story(catalog_of: Callable[..., Catalog]) -> None:
        other = Cloud(CLOUD)
        catalog = catalog_of(aws=Cloud(wrong), gcp=other)
        await asyncio.sleep(1)
        other.on_sale = [replace(CLOUD, instance_type="n2")]
        await asyncio.sleep(60)
        assert (names(catalog), catalog.silent) == (["n2"], {"aws"})

    virtually(story)


def test_state_of_a_backend_says_why_its_machines_may_be_missing() -> None:
    assert BackendState().fault == UNKNOWN
    assert BackendState((CLOUD,), NOW).fault == ""
    assert not BackendState(error="away").stale, "there is nothing that could be old"
