"""The market answers as a scan of all offers would, and asks far less."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.domain import market as markets
from dstack.domain import misfits as traits
from dstack.domain.market import EMPTY, Market, places_in, without
from dstack.domain.misfits import PRICE, Reason, fits, misfits
from dstack.domain.offers import Bounds, Demand, GpuDemand, Offer
from dstack.domain.placement import JobQueue, capacity, place
from dstack.operations.refusals import refusals_of
from dstack.protocol.agent import Engine, Gpu, HostResources
from tests.making import CLOUD, DEMAND, HERE, job
from tests.unit.domain.scanning import may_buy

A100, T4 = Gpu("nvidia", "A100", 40960, "8.0"), Gpu("nvidia", "T4", 15360, "7.5")

resources = st.builds(
    HostResources,
    cpus=st.integers(1, 8),
    memory_mib=st.sampled_from([2048, 8192, 65536]),
    disk_mib=st.sampled_from([50_000, 500_000]),
    gpus=st.lists(st.sampled_from([A100, T4]), max_size=3).map(tuple),
    engine=st.sampled_from([None, Engine("docker", "27", "x86_64")]),
    arch=st.sampled_from(["", "x86", "arm"]),
    pythons=st.sampled_from([(), ("3.12",)]),
)
offers = st.builds(
    Offer,
    backend=st.sampled_from(["aws", "gcp", "local"]),
    region=st.sampled_from(["eu", "us"]),
    instance_type=st.sampled_from("abcdef"),
    resources=resources,
    price=st.sampled_from([0.0, 0.1, 0.5, 2.0]),
    spot=st.booleans(),
    blocks=st.sampled_from([1, None, 4]),
    exists=st.booleans(),
    machines_max=st.sampled_from([None, 0, 1]),
)
sizes = st.builds(Bounds, st.sampled_from([None, 2, 4]), st.sampled_from([None, 6]), st.booleans())
demands = st.builds(
    Demand,
    cpus=sizes,
    memory_mib=st.sampled_from([Bounds(None, None, False), Bounds(8192, None, False), Bounds(8192, None, True)]),
    disk_mib=st.sampled_from([Bounds(None, None, False), Bounds(102_400, None, True)]),
    arch=st.sampled_from([None, None, "x86"]),
    gpu=st.sampled_from(
        [
            None,
            GpuDemand(Bounds(1, None, True)),
            GpuDemand(Bounds(1, 2, True), names=("A100",)),
            GpuDemand(Bounds(1, None, True), total_memory_mib=Bounds(50_000, None, True)),
            GpuDemand(Bounds(2, None, True), compute_capability="8.0"),
        ]
    ),
    backends=st.sampled_from([(), (), ("aws",), ("aws", "gcp")]),
    regions=st.sampled_from([(), (), ("eu",)]),
    instance_types=st.sampled_from([(), (), ("a", "b")]),
    max_price=st.sampled_from([None, None, 0.0, 0.5, 0.3]),
    spot=st.sampled_from(["auto", "spot", "on-demand"]),
    reservation=st.sampled_from([None, None, None, "r"]),
    fleets=st.sampled_from([(), (), ("default", "x"), ("x",)]),
    reuse_only=st.booleans(),
    container=st.sampled_from([(), ("`image: x`",)]),
    python=st.sampled_from([None, "3.12", "3.11"]),
)


def scanned(some: Sequence[Offer]) -> list[Offer]:
    """Return offers in the order of the market; of those with one name the cheapest."""
    found: dict[object, Offer] = {}
    for one in sorted(some, key=lambda one: (one.price, one.backend, one.region, one.instance_type, one.spot)):
        found.setdefault(one.name, one)
    return list(found.values())


@given(st.lists(offers, max_size=30), demands)
def test_market_answers_as_a_scan_of_all_offers(some: list[Offer], demand: Demand) -> None:
    market, every = Market.of(some), scanned(some)
    assert market.select(market.everything) == every
    assert market.select(market.fitting(demand)) == [one for one in every if fits(demand, one)]
    assert market.select(market.buyable(demand)) == [one for one in every if may_buy(demand, one)]
    lacking = [one for one in every if not fits(demand, one)]
    nearest = sorted(lacking, key=lambda one: len(list(misfits(demand, one))))
    assert market.nearest(demand, 100) == nearest
    assert market.nearest(demand, 3) == nearest[:3]


@given(st.lists(offers, max_size=30), demands)
def test_market_without_some_offers_answers_as_one_that_never_had_them(some: list[Offer], demand: Demand) -> None:
    less = Market.of(some).without_backends({"aws"})
    never = Market.of([one for one in some if one.backend != "aws"])
    assert len(less) == len(never)
    assert less.select(less.fitting(demand)) == never.select(never.fitting(demand))
    assert less.nearest(demand, 100) == never.nearest(demand, 100)
    assert less.named([one.name for one in some if one.backend == "aws"]) == 0


@given(st.sets(st.integers(0, 300)))
def test_set_lists_its_places_in_order(places: set[int]) -> None:
    some = sum(1 << place for place in places)
    assert list(places_in(some)) == sorted(places)
    assert list(places_in(without(some, 1 << 7))) == sorted(places - {7})


def test_misfit_is_a_value_with_what_was_asked_and_what_is_there() -> None:
    (misfit,) = misfits(replace(DEMAND, regions=("us-east-1",)), CLOUD)
    assert (misfit.reason, misfit.asked, misfit.has) == (Reason.REGION, ("us-east-1",), "eu-west-1")
    assert EMPTY.fitting(DEMAND) == 0 and EMPTY.nearest(DEMAND, 50) == []


class Watched(tuple[Offer, ...]):
    """The offers of a market: counts those that are read one by one."""

    reads = 0

    def __getitem__(self, place: Any, /) -> Any:
        Watched.reads += 1
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[Offer]:
        Watched.reads += len(self)
        return super().__iter__()


KINDS, REGIONS = 500, 20


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often traits are asked about an offer or a value, in all markets made from now on."""
    count = Counter[str]()

    def counting(trait: traits.Trait) -> traits.Trait:
        def judge(asked: object, has: object) -> Reason | None:
            count["judged"] += 1
            return trait.judge(asked, has)

        return trait if trait is PRICE else replace(trait, judge=judge)

    counted = tuple(counting(trait) for trait in traits.TRAITS)
    monkeypatch.setattr(traits, "TRAITS", counted)
    monkeypatch.setattr(markets, "TRAITS", counted)
    monkeypatch.setattr(markets, "BACKEND", counted[0])
    monkeypatch.setattr(capacity, "_indexes", {})
    monkeypatch.setattr(Watched, "reads", 0)
    return count


def large_market() -> Market:
    sizes = [HostResources(1 + n % 20, 1024 * (1 + n % 50), 500_000 + n) for n in range(KINDS)]
    some = [
        replace(CLOUD, region=f"r{region}", instance_type=f"t{n}", resources=size, price=0.01 * n, machines_max=1)
        for n, size in enumerate(sizes)
        for region in range(REGIONS)
    ]
    unwanted = replace(some[0], spot=True, machines_max=None)
    market = Market.of([*some, unwanted])
    market.index.offers = Watched(market.index.offers)
    return market


def test_plan_judges_values_and_not_offers(judged: Counter[str]) -> None:
    market = large_market()
    wanted = replace(DEMAND, cpus=Bounds(15, None, True))
    Watched.reads = 0
    refusals = refusals_of(wanted, market)
    assert 0 < len(set(refusals)) == len(refusals) < 50, "a machine is named once, and not for each of its regions"
    assert 50 < market.fitting(wanted).bit_count() < len(market) == KINDS * REGIONS + 1
    assert judged["judged"] <= 20 + 50 + KINDS + 3 + 50 * len(traits.TRAITS)
    assert Watched.reads == 50, "only those that are shown are read"
    judged.clear()
    refusals_of(wanted, market)
    assert judged["judged"] <= 50 * len(traits.TRAITS), "the answers are remembered"


def test_pass_over_many_demands_that_wait_judges_fewer_values_than_there_are_offers(judged: Counter[str]) -> None:
    market = large_market()
    queue = [
        job(
            id=f"{n}",
            run_id=f"{n}",
            demand=replace(
                DEMAND, cpus=Bounds(1 + n % 20, None, True), memory_mib=Bounds(1024 * (n // 20), None, True)
            ),
        )
        for n in range(200)
    ]
    used_up = {market[place].name: 1 for place in range(len(market)) if not market[place].spot}
    Watched.reads = 0
    placement = place(JobQueue(queue), (), market, used_up)
    assert (len(placement.placed), len(placement.waiting)) == (0, 200)
    assert judged["judged"] < len(market)
    assert Watched.reads < len(market) + 4 * len(queue), "one look at each name in use, and a few for each demand"


def test_existing_machine_is_no_purchase() -> None:
    market = Market.of([HERE, CLOUD])
    reuses = replace(DEMAND, reuse_only=True)
    assert market.select(market.buyable(reuses)) == [HERE]
    assert len(market.select(market.buyable(DEMAND))) == 2


def test_offers_of_a_project_are_shown_and_sold_to_that_project_alone() -> None:
    ours = replace(CLOUD, backend_id="1-row", project_id="1-project", price=0.01)
    theirs = replace(CLOUD, backend_id="2-row", project_id="2-project", price=0.02)
    market = Market.of([CLOUD, ours, theirs])
    for project_id, seen in ((None, [CLOUD]), ("1-project", [ours, CLOUD]), ("2-project", [theirs, CLOUD])):
        shown = market.for_project(project_id)
        assert shown.select(shown.everything) == seen
        assert shown.select(shown.fitting(DEMAND)) == seen
        assert market.select(market.buyable(DEMAND, project_id)) == seen
        assert shown.nearest(replace(DEMAND, regions=("mars",)), 10) == seen


def test_requirements_name_backends_by_type_and_by_name() -> None:
    first, second = (
        replace(CLOUD, backend_id=f"{name}-row", backend_name=name, price=price)
        for name, price in (("aws-a", 0.1), ("aws-b", 0.2))
    )
    other = replace(CLOUD, backend="gcp", backend_id="", backend_name="", price=0.3)
    market = Market.of([first, second, other])
    for words, fitting in (
        (("aws",), [first, second]),
        (("aws-b",), [second]),
        (("gcp", "aws-a"), [first, other]),
        (("gcp",), [other]),
        (("aws-c",), []),
    ):
        asked = replace(DEMAND, backends=words)
        assert market.select(market.fitting(asked)) == fitting
        assert [one for one in (first, second, other) if fits(asked, one)] == fitting


def test_pass_buys_the_cheapest_offer_that_the_jobs_project_may_buy() -> None:
    ours = replace(CLOUD, backend_id="1-row", project_id="1-project", price=0.01, machines_max=1)
    market = Market.of([CLOUD, ours])
    jobs = [job(id=f"{n}-job", run_id=f"{n}-run", project_id=f"{n}-project") for n in range(3)]
    jobs += [job(id="3-job", run_id="3-run", project_id="1-project")]
    found = place(JobQueue(jobs), (), market, {})
    bought = {room.key: room.offer.backend_id for room in found.bought}
    assert [bought[one.key] for one in found.placed] == ["aws", "1-row", "aws", "aws"]
