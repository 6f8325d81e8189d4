import json
from dataclasses import replace

import pytest

from dstack.domain.offers import (
    Bounds,
    Demand,
    GpuDemand,
    Offer,
    Runtime,
    Share,
    demand_of_json,
    demand_to_json,
    describe,
    gpus_for,
    runtimes_for,
    share_of,
)
from dstack.protocol.agent import Engine, Gpu, HostResources
from tests.making import CLOUD, DEMAND, HERE
from tests.unit.domain.scanning import reasons_of

A100 = Gpu("nvidia", "NVIDIA A100-SXM4-40GB", 40960)


def wish(**fields: object) -> Demand:
    return replace(DEMAND, **fields)  # type: ignore[arg-type]


def test_a_default_does_not_exclude_this_machine_but_does_exclude_a_cloud_machine() -> None:
    small = HostResources(1, 2048, 10_000)
    assert reasons_of(DEMAND, replace(HERE, resources=small)) == []
    assert reasons_of(DEMAND, replace(CLOUD, resources=small)) == [
        "cpu: asked 2.., has 1",
        "memory: asked 8GB.., has 2GB",
        "disk: asked 100GB.., has 9.8GB",
    ]


@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        (wish(cpus=Bounds(64, None, True)), "cpu: asked 64.., has 4"),
        (wish(memory_mib=Bounds(32768, 32768, True)), "memory: asked 32GB, has 16GB"),
        (wish(disk_mib=Bounds(2 << 20, None, True)), "disk: asked 2TB.., has 48.8GB"),
        (
            wish(gpu=GpuDemand(Bounds(1, 1, True), memory_mib=Bounds(24576, None, True))),
            "gpu: asked 1 with memory 24GB.., has none",
        ),
        (wish(gpu=GpuDemand(Bounds(2, None, True), "nvidia", ("A100",))), "gpu: asked 2.. nvidia A100, has none"),
        (wish(backends=("aws", "gcp")), "backends: asked aws, gcp, is local"),
        (wish(regions=("eu",)), "regions: asked eu, is local"),
        (wish(instance_types=("p3",)), "instance_types: asked p3, is local"),
        (wish(spot="spot"), "spot_policy: asked spot, is on-demand"),
        (wish(container=("`image: ubuntu`",)), "`image: ubuntu` needs a container, and there is no container engine"),
        (wish(reservation="cr-1"), "reservation: asked cr-1, has none"),
        (wish(instance_name="big"), "instance_name: asked big, has no name"),
        (wish(fleets=("gpus",)), "fleets: asked gpus, is in default"),
    ],
)
def test_what_was_written_and_is_missing_is_named_with_what_there_is(demand: Demand, reason: str) -> None:
    assert reasons_of(demand, HERE) == [reason]


def test_of_a_shared_machine_a_job_gets_the_part_that_it_asks_for() -> None:
    small = wish(cpus=Bounds(1, 1, True), memory_mib=Bounds(64, 64, True))
    assert reasons_of(small, HERE) == []
    assert reasons_of(small, CLOUD) == ["cpu: asked 1, has 2", "memory: asked 64MB, has 8GB"]


def test_with_an_engine_this_machine_runs_containers_and_without_one_says_why() -> None:
    wanted = wish(container=("`image: ubuntu`",))
    with_engine = replace(HERE.resources, engine=Engine("docker", "27", "x86_64"))
    assert reasons_of(wanted, replace(HERE, resources=with_engine)) == []
    without = replace(HERE.resources, engine_problem="nobody answers")
    said = "`image: ubuntu` needs a container, and there is no container engine (nobody answers)"
    assert reasons_of(wanted, replace(HERE, resources=without)) == [said]


DOCKER = Engine("docker", "27", "x86_64")
WITH_DOCKER = replace(CLOUD, resources=replace(CLOUD.resources, engine=DOCKER))


def test_container_needs_an_offer_with_a_container_engine() -> None:
    wanted = wish(container=("`image: ubuntu`",))
    assert reasons_of(wanted, WITH_DOCKER) == []
    assert reasons_of(wanted, CLOUD) == ["`image: ubuntu` needs a container, and there is no container engine"]


@pytest.mark.parametrize(
    ("offer", "demand", "runtimes"),
    [
        (WITH_DOCKER, wish(), (Runtime.CONTAINER, Runtime.PROCESS)),
        (CLOUD, wish(), (Runtime.PROCESS,)),
        (CLOUD, wish(container=("`image: ubuntu`",)), ()),
        (WITH_DOCKER, wish(container=("`image: ubuntu`",)), (Runtime.CONTAINER,)),
        (HERE, wish(), (Runtime.PROCESS,)),
        (replace(HERE, resources=WITH_DOCKER.resources), wish(), (Runtime.PROCESS, Runtime.CONTAINER)),
        (
            replace(HERE, resources=WITH_DOCKER.resources),
            wish(container_optional=True),
            (Runtime.CONTAINER, Runtime.PROCESS),
        ),
        (replace(HERE, resources=WITH_DOCKER.resources), wish(python="3.9"), (Runtime.CONTAINER,)),
    ],
)
def test_job_without_image_runs_in_a_container_where_there_is_an_engine_but_not_on_this_machine(
    offer: Offer, demand: Demand, runtimes: tuple[Runtime, ...]
) -> None:
    assert runtimes_for(demand, offer) == runtimes


@pytest.mark.parametrize(
    ("demand", "share"),
    [
        (wish(), Share(2, 4096)),
        (wish(cpus=Bounds(3, None, True)), Share(4, 8192)),
        (wish(memory_mib=Bounds(5000, None, True)), Share(4, 8192)),
        (wish(gpu=GpuDemand(Bounds(3, 3, True))), Share(6, 12288, (0, 1, 2))),
        (wish(cpus=Bounds(8, None, True)), Share(8, 16384)),
    ],
)
def test_job_gets_whole_blocks_of_a_machine_in_blocks(demand: Demand, share: Share) -> None:
    offer = replace(CLOUD, resources=HostResources(8, 16384, 102_400, (A100,) * 4), blocks=4)
    assert reasons_of(demand, offer) == []
    assert share_of(demand, offer) == share


def test_default_excludes_nothing_on_a_machine_that_exists() -> None:
    assert reasons_of(DEMAND, replace(HERE, resources=HostResources(1, 512, 1000))) == []
    assert reasons_of(DEMAND, replace(CLOUD, blocks=None, resources=HostResources(1, 8192, 102_400))) == [
        "cpu: asked 2.., has 1"
    ]


def test_a_card_that_does_not_tell_its_compute_capability_has_none_that_could_be_asked_for() -> None:
    offer = replace(HERE, resources=HostResources(4, 16384, 50_000, (A100,)))
    demand = wish(gpu=GpuDemand(Bounds(1, 1, True), compute_capability="7.5"))
    assert reasons_of(demand, offer) == ["gpu.compute_capability: asked 7.5, its own is not known"]


@pytest.mark.parametrize(
    ("asked", "misfit"),
    [
        ("7.5", None),
        ("8.0", None),
        ("8.6", "gpu.compute_capability: asked 8.6, has 8.0, 7.5"),
        ("10.0", "gpu.compute_capability: asked 10.0, has 8.0, 7.5"),
    ],
)
def test_a_card_is_young_enough_or_it_is_said_what_it_has(asked: str, misfit: str | None) -> None:
    cards = (replace(A100, compute_capability="8.0"), Gpu("nvidia", "T4", 15360, "7.5"))
    offer = replace(HERE, resources=HostResources(4, 16384, 50_000, cards))
    demand = wish(gpu=GpuDemand(Bounds(1, 1, True), compute_capability=asked))
    assert reasons_of(demand, offer) == ([] if misfit is None else [misfit])


def test_among_different_cards_those_are_given_that_can_compute_what_is_asked_for() -> None:
    cards = (Gpu("nvidia", "T4", 15360, "7.5"), A100, replace(A100, compute_capability="8.0"))
    demand = wish(gpu=GpuDemand(Bounds(1, 1, True), compute_capability="8.0"))
    assert gpus_for(demand, cards, taken=frozenset()) == (2,)


@pytest.mark.parametrize(
    ("count", "total_gb", "cards"),
    [
        (Bounds(1, None, True), Bounds(80, None, True), (0, 1)),
        (Bounds(1, 2, True), Bounds(100, None, True), None),
        (Bounds(1, 1, True), Bounds(40, None, True), (0,)),
        (Bounds(2, None, True), Bounds(None, 80, True), (0, 1)),
        (Bounds(2, None, True), Bounds(None, 40, True), None),
    ],
)
def test_a_job_gets_as_many_cards_as_together_have_the_memory_it_asks_for(
    count: Bounds, total_gb: Bounds, cards: tuple[int, ...] | None
) -> None:
    total = Bounds(*(None if one is None else one * 1024 for one in (total_gb.min, total_gb.max)), True)
    demand = wish(gpu=GpuDemand(count, total_memory_mib=total))
    assert gpus_for(demand, (A100, A100, A100), taken=frozenset()) == cards
    offer = replace(HERE, resources=HostResources(4, 16384, 50_000, (A100, A100, A100)))
    told = [reason.partition(":")[0] for reason in reasons_of(demand, offer)]
    assert told == ([] if cards else ["gpu.total_memory"])


@pytest.mark.parametrize(
    ("count", "cards"),
    [(Bounds(None, 2, True), 1), (Bounds(0, None, True), 1), (Bounds(1, 1, True), 1), (Bounds(2, None, True), 2)],
)
def test_a_job_gets_as_many_cards_as_it_must_have_and_one_where_it_may_have_some(count: Bounds, cards: int) -> None:
    demand = wish(gpu=GpuDemand(count))
    assert gpus_for(demand, (A100, A100, A100), taken=frozenset({0})) == tuple(range(1, 1 + cards))
    assert gpus_for(demand, (), taken=frozenset()) == (() if count.min in (None, 0) else None)


def test_a_card_that_is_gone_does_not_count() -> None:
    resources = HostResources(4, 16384, 50_000, (A100, replace(A100, gone=True), A100))
    here = replace(HERE, resources=resources)
    two, three = (wish(gpu=GpuDemand(Bounds(count, count, True))) for count in (2, 3))
    assert gpus_for(two, resources.gpus, taken=frozenset()) == (0, 2)
    assert reasons_of(two, here) == []
    assert reasons_of(three, here) == ["gpu: asked 3, has NVIDIA A100-SXM4-40GB (40GB), NVIDIA A100-SXM4-40GB (40GB)"]
    assert share_of(two, replace(CLOUD, resources=resources)).gpus == (0, 2)
    assert describe(resources) == "4xCPU, 16GB, 48.8GB (disk), 2xNVIDIA A100-SXM4-40GB (40GB)"


def test_a_price_limit_is_a_requirement() -> None:
    assert reasons_of(wish(max_price=0.05), CLOUD) == ["max_price: asked $0.05, costs $0.1"]


@pytest.mark.parametrize("name", ["A100", "a100", "NVIDIA A100-SXM4-40GB"])
def test_a_card_is_known_by_its_short_name(name: str) -> None:
    offer = replace(HERE, resources=HostResources(4, 16384, 50_000, (A100,)))
    assert reasons_of(wish(gpu=GpuDemand(Bounds(1, 1, True), "nvidia", (name,))), offer) == []


def test_a_vendor_that_the_grammar_has_no_word_for_is_a_name() -> None:
    offer = replace(HERE, resources=HostResources(4, 16384, 50_000, (A100, Gpu("intel", "Gaudi2", 98304))))
    assert reasons_of(wish(gpu=GpuDemand(Bounds(1, 1, True), names=("Intel",))), offer) == []
    assert gpus_for(
        wish(gpu=GpuDemand(Bounds(1, 1, True), names=("intel",))), offer.resources.gpus, taken=frozenset()
    ) == (1,)


def test_a_demand_survives_its_json() -> None:
    gpu = GpuDemand(Bounds(1, None, True), "amd", ("MI300X",), Bounds(1, 2, True), compute_capability="7.5")
    demand = wish(gpu=gpu, regions=("eu",), container=("`image: x`",), reuse_only=True, fleets=("a",))
    assert demand_of_json(json.loads(json.dumps(demand_to_json(demand)))) == demand


def test_a_machine_is_described_on_one_line() -> None:
    resources = HostResources(2, 8192, 102_400, (A100, A100))
    assert describe(resources) == "2xCPU, 8GB, 100GB (disk), 2xNVIDIA A100-SXM4-40GB (40GB)"
