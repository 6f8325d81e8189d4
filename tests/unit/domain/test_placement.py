from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dstack.domain import placement as passes
from dstack.domain.market import Market
from dstack.domain.misfits import fits
from dstack.domain.objects import Job
from dstack.domain.offers import Bounds, Demand, GpuDemand, Offer, Share
from dstack.domain.placement import BEHIND, JobQueue, Placement
from dstack.domain.rooms import Room, room_of, rooms_of
from dstack.protocol.agent import Engine, Gpu, HostResources
from dstack.protocol.statuses import InstanceStatus
from tests.making import CLOUD, DEMAND, HERE, instance, job, placed_job

A100 = Gpu("nvidia", "A100", 40960)
GPU_HERE = replace(HERE, resources=HostResources(8, 65536, 50_000, (A100, A100)))


def place(
    queue: Iterable[Job],
    rooms: Sequence[Room],
    offers: Sequence[Offer],
    existing: Sequence[Offer],
    sold_out: Sequence[Offer] = (),
    shunned: Sequence[Offer] = (),
) -> Placement:
    """A pass, given the offers of all machines that may exist."""
    market = Market.of([*offers, *sold_out]).shunning(shunned)
    in_use, gone = Counter(offer.name for offer in existing), [offer.name for offer in sold_out]
    return passes.place(JobQueue(queue), rooms, market, in_use, gone)


def can_ever_place(gang: Sequence[Job], offers: Sequence[Offer]) -> bool:
    return passes.can_ever_place(gang, Market.of(offers))


def demand(cpus: int) -> Demand:
    return replace(DEMAND, cpus=Bounds(cpus, None, written=True))


def placed(placement: Placement) -> list[tuple[str, str]]:
    return [(one.job.id, one.key) for one in placement.placed]


def test_jobs_that_wrote_nothing_share_the_machine_one_core_each() -> None:
    queue = [job(id=f"{n}", run_id=f"r{n}") for n in range(6)]
    placement = place(queue, rooms_of([instance()], []), [HERE], [HERE])
    assert placed(placement) == [("0", "0-instance"), ("1", "0-instance"), ("2", "0-instance"), ("3", "0-instance")]
    assert placement.placed[0].share == Share(1, 4096)


def test_what_runs_already_takes_room_until_its_processes_are_gone() -> None:
    running = placed_job(id="a", share=Share(3, 1000))
    placement = place([job(demand=demand(2))], rooms_of([instance()], [running]), [], [HERE])
    assert placement.placed == []


def test_a_machine_is_bought_only_when_no_existing_one_has_room() -> None:
    placement = place([job()], rooms_of([], []), [HERE, CLOUD], [])
    assert [room.offer for room in placement.bought] == [HERE]
    assert placed(placement) == [("0-job", "new-0")]
    assert place([job()], rooms_of([instance()], []), [HERE], [HERE]).bought == []


def test_a_job_that_reuses_machines_has_none_bought_but_uses_this_one() -> None:
    reuses = job(demand=replace(DEMAND, reuse_only=True))
    assert placed(place([reuses], [], [CLOUD], [])) == []
    assert placed(place([reuses], rooms_of([instance()], []), [CLOUD], [])) == [("0-job", "0-instance")]
    assert [room.offer for room in place([reuses], [], [HERE, CLOUD], []).bought] == [HERE]


def test_wait_for_machines_whose_quota_is_zero_says_so() -> None:
    none = replace(CLOUD, machines_max=0)
    assert place([job()], [], [none], []).waiting == {"0-run": "the quota is 0 for aws m5.large"}
    used = replace(CLOUD, region="us", machines_max=1, price=0.2)
    waiting = place([job()], [], [none, used], [used]).waiting
    assert waiting == {"0-run": "at most 1 of aws m5.large may exist at once, and other jobs use them"}


def test_no_more_machines_are_bought_than_there_are() -> None:
    ending = instance(status=InstanceStatus.TERMINATING)
    placement = place([job()], rooms_of([ending], []), [HERE], [HERE])
    assert (placement.placed, placement.bought) == ([], [])
    assert placement.waiting == {"0-run": "at most 1 of local may exist at once, and other jobs use them"}


def test_all_nodes_of_a_gang_or_none() -> None:
    gang = [job(id=f"{n}", node=n, nodes=3, demand=demand(2)) for n in range(3)]
    rooms = rooms_of([instance()], [])
    assert place(gang, rooms, [], [HERE]).placed == []
    assert rooms[0].cpus == 4, "what was taken for the first nodes is given back"
    placement = place(gang, rooms_of([instance()], []), [CLOUD], [])
    assert placed(placement) == [("0", "0-instance"), ("1", "0-instance"), ("2", "new-0")]


def test_what_a_large_job_waits_for_is_kept_from_those_behind_it() -> None:
    queue = [job(id="large", run_id="a", demand=demand(4)), job(id="small", run_id="b")]
    running = placed_job(share=Share(1, 1000))
    placement = place(queue, rooms_of([instance()], [running]), [], [HERE])
    assert placement.placed == []
    free = "3 of 4 CPUs and 15GB are free on local; a run there must end first"
    assert placement.waiting["a"] == f"needs 4 CPUs and 16GB; {free}"


def test_what_it_could_never_use_is_for_those_behind_it() -> None:
    large = job(id="large", run_id="a", demand=replace(demand(4), backends=("local",)))
    anywhere = job(id="small", run_id="b", demand=replace(DEMAND, backends=("aws",)))
    mine = instance(id="1-instance", offer=CLOUD, project_id="0-project")
    rooms = rooms_of([instance(), mine], [placed_job(share=Share(1, 1000))])
    assert placed(place([large, anywhere], rooms, [], [HERE, CLOUD])) == [("small", "1-instance")]
    assert placed(place([large, anywhere], rooms[:1], [CLOUD], [HERE])) == [("small", "new-0")]


def test_who_finds_everything_sold_out_is_without_hope_unless_a_machine_that_fits_exists() -> None:
    wants = job(demand=replace(DEMAND, backends=("aws",)))
    assert place([wants], [], [HERE], [], sold_out=[CLOUD]).hopeless == [wants]
    busy = room_of(instance(offer=CLOUD, project_id="0-project"), [placed_job()])
    placement = place([wants], [busy], [HERE], [CLOUD], sold_out=[CLOUD])
    assert placement.hopeless == [] and placement.waiting == {"0-run": "every machine that fits is in use (1)"}


def test_cloud_with_an_unanswered_launch_comes_after_others_and_its_region_last() -> None:
    hanging = replace(CLOUD, price=0.1)
    same_region = replace(hanging, instance_type="larger", price=0.2)
    same_cloud = replace(hanging, region="us", price=0.3)
    other_cloud = replace(hanging, backend="gcp", backend_id="gcp", backend_name="gcp", price=0.4)
    wants = job(demand=replace(DEMAND, backends=("aws", "gcp")))

    def bought(*market: Offer) -> list[Offer]:
        placement = place([wants], [], market, [], sold_out=[hanging], shunned=[hanging])
        return [room.offer for room in placement.bought]

    assert bought(hanging, same_region, same_cloud, other_cloud) == [other_cloud]
    assert bought(hanging, same_region, same_cloud) == [same_cloud]
    assert bought(hanging, same_region) == [same_region]
    assert bought(hanging) == []


def test_a_job_that_may_only_reuse_keeps_no_offer_from_those_behind_it() -> None:
    reuses = job(id="reuses", run_id="a", demand=replace(DEMAND, reuse_only=True, backends=("aws",)))
    buys = job(id="buys", run_id="b", demand=replace(DEMAND, backends=("aws",)))
    placement = place([reuses, buys], [], [CLOUD], [])
    assert placed(placement) == [("buys", "new-0")]
    assert placement.waiting == {"a": "no existing machine fits, and the run may not use a new one"}
    assert place([reuses], [], [], [], sold_out=[CLOUD]).hopeless == [], "what it may not buy cannot be sold out for it"


def test_who_is_held_back_by_an_earlier_run_is_told_so_and_not_that_room_is_free() -> None:
    queue = [job(id="large", run_id="a", demand=demand(4)), job(id="small", run_id="b", demand=demand(1))]
    elsewhere = instance(id="1-instance", offer=GPU_HERE, project_id="1-project")
    rooms = rooms_of([instance(), elsewhere], [placed_job(share=Share(1, 1000))])
    placement = place(queue, rooms, [], [HERE])
    assert placement.placed == []
    assert placement.waiting["b"] == BEHIND


def test_a_gang_is_told_how_many_of_its_nodes_have_room() -> None:
    aws = replace(DEMAND, backends=("aws",))
    gang = [job(id=f"{n}", node=n, nodes=3, demand=aws) for n in range(3)]
    mine = [instance(id=f"{n}-instance", offer=CLOUD, project_id="0-project") for n in range(2)]
    limited = replace(CLOUD, machines_max=2)
    free = place(gang, rooms_of(mine, []), [limited], [CLOUD, CLOUD])
    assert (
        free.waiting["0-run"]
        == "2 of 3 nodes have room, and all start together; 0 of the 2 machines that fit are in use"
    )
    busy = place(gang, rooms_of(mine, [placed_job()]), [limited], [CLOUD, CLOUD])
    assert (
        busy.waiting["0-run"]
        == "1 of 3 nodes have room, and all start together; 1 of the 2 machines that fit are in use"
    )


def test_ten_thousand_different_demands_are_compared_with_kinds_of_machines_and_not_with_each_machine() -> None:
    looked_at = Counter[str]()

    class Watched(tuple[str, ...]):
        """The backends a demand allows: counts how often they are asked about."""

        def __contains__(self, name: object) -> bool:
            looked_at[str(name)] += 1
            return super().__contains__(name)

    many = [instance(id=f"{n:03}", offer=CLOUD, project_id="0-project") for n in range(100)]
    running = [placed_job(id=one.id, instance_id=one.id) for one in many]
    queue = [
        job(id=f"{n}", run_id=f"{n}", demand=replace(DEMAND, backends=Watched(["aws"]), max_price=1 + n))
        for n in range(50)
    ]
    open_but_unwanted = replace(CLOUD, backend="gcp", backend_name="gcp")
    placement = place(queue, rooms_of(many, running), [open_but_unwanted], [])
    assert len(placement.waiting) == 50
    assert looked_at["aws"] <= 2 * len(queue)


def test_the_queue_is_read_only_as_far_as_there_is_room() -> None:
    queue = iter([job(id=f"{n}", run_id=f"{n}") for n in range(10)])
    assert len(place(queue, rooms_of([instance()], []), [], [HERE]).placed) == 4
    assert len(list(queue)) == 5, "one was read to see whose turn it is"


demands = st.sampled_from([demand(cpus) for cpus in (1, 2, 3, 4)] + [replace(demand(2), backends=("aws",))])
gangs = st.lists(st.tuples(demands, st.sampled_from([1, 1, 1, 2, 3])), max_size=8)
shares = st.lists(st.integers(0, 4), min_size=0, max_size=3)


@given(gangs, shares, st.integers(0, 2))
def test_nobody_takes_what_somebody_before_him_waits_for_and_nothing_is_given_twice(
    asked: list[tuple[Demand, int]], taken: list[int], buyable: int
) -> None:
    queue = [
        job(id=f"{number}-{node}", run_id=f"{number}", node=node, nodes=nodes, demand=wants)
        for number, (wants, nodes) in enumerate(asked)
        for node in range(nodes)
    ]
    machines = [instance(id=f"{number}-instance") for number in range(len(taken))]
    running = [placed_job(instance_id=f"{n}-instance", share=Share(cpus, 0)) for n, cpus in enumerate(taken)]
    rooms = rooms_of(machines, running)
    cloud = replace(CLOUD, machines_max=buyable)
    placement = place(queue, rooms, [cloud], [HERE] * len(machines))
    places = {one.job.id: one.key for one in placement.placed}
    offers = {**{one.id: HERE for one in machines}, **{room.key: room.offer for room in placement.bought}}
    assert len(placement.bought) <= buyable
    assert all(room.cpus >= 0 and room.memory_mib >= 0 for room in [*rooms, *placement.bought])
    waiting: list[Demand] = []
    for number, (wants, nodes) in enumerate(asked):
        keys = [places.get(f"{number}-{node}") for node in range(nodes)]
        assert all(keys) or not any(keys), "all nodes or none"
        for key in filter(None, keys):
            assert not any(fits(earlier, offers[key]) for earlier in waiting), "somebody before could have used it"
        if not all(keys):
            waiting.append(wants)


def test_a_card_belongs_to_one_job() -> None:
    wants = replace(DEMAND, gpu=GpuDemand(Bounds(1, 1, written=True)))
    queue = [job(id=f"{n}", run_id=f"r{n}", demand=wants) for n in range(3)]
    placement = place(queue, rooms_of([instance(offer=GPU_HERE)], []), [], [GPU_HERE])
    assert [one.share.gpus for one in placement.placed] == [(0,), (1,)]


def test_who_waits_for_a_card_is_told_how_many_are_free() -> None:
    wants = replace(DEMAND, gpu=GpuDemand(Bounds(2, 2, written=True)))
    holder = placed_job(share=Share(1, 8192, gpus=(1,)))
    placement = place([job(demand=wants)], rooms_of([instance(offer=GPU_HERE)], [holder]), [], [GPU_HERE])
    asked, free = "needs 1 CPU, 8GB and 2 GPUs", "7 of 8 CPUs, 56GB and 1 of 2 GPUs are free"
    assert placement.waiting == {"0-run": f"{asked}; {free} on local; a run there must end first"}


def test_a_card_that_is_gone_is_given_to_nobody() -> None:
    offer = replace(GPU_HERE, resources=replace(GPU_HERE.resources, gpus=(replace(A100, gone=True), A100)))
    wants = replace(DEMAND, gpu=GpuDemand(Bounds(1, 1, written=True)))
    queue = [job(id=f"{n}", run_id=f"r{n}", demand=wants) for n in range(2)]
    placement = place(queue, rooms_of([instance(offer=offer)], []), [], [])
    assert [one.share.gpus for one in placement.placed] == [(1,)]
    assert placement.waiting["r1"].endswith("and 0 of 1 GPU are free on local; a run there must end first")
    holder = placed_job(share=Share(1, 8192, gpus=(0,)))
    placement = place(queue[:1], rooms_of([instance(offer=offer)], [holder]), [], [])
    assert [one.share.gpus for one in placement.placed] == [(1,)]


T4 = Gpu("nvidia", "T4", 15360, "7.5")
cards = st.lists(st.sampled_from([A100, T4, replace(A100, gone=True)]), max_size=5).map(tuple)
gpu_demands = st.builds(
    GpuDemand,
    st.builds(Bounds, st.integers(0, 3), st.just(None), st.just(True)),
    names=st.sampled_from([(), ("A100",), ("T4",)]),
    total_memory_mib=st.sampled_from([None, Bounds(50_000, None, True)]),
    compute_capability=st.sampled_from([None, None, "7.0"]),
)


@given(st.lists(cards, max_size=3), st.lists(st.tuples(gpu_demands, st.integers(1, 2)), max_size=8), st.data())
def test_a_card_is_never_given_to_two_jobs_and_each_job_gets_what_it_asked_for(
    machines: list[tuple[Gpu, ...]], asked: list[tuple[GpuDemand, int]], data: st.DataObject
) -> None:
    offers = {
        f"{number}-instance": replace(HERE, resources=HostResources(64, 65536, 50_000, gpus))
        for number, gpus in enumerate(machines)
    }
    running = []
    for id, offer in offers.items():
        held = {index for index in data.draw(st.sets(st.integers(0, 4))) if index < len(offer.resources.gpus)}
        running.append(placed_job(id=f"held-{id}", instance_id=id, share=Share(1, 1, tuple(held))))
    demands = {f"{number}": replace(DEMAND, gpu=gpu) for number, (gpu, _) in enumerate(asked)}
    queue = [
        job(id=f"{number}-{node}", run_id=f"{number}", node=node, nodes=nodes, demand=demands[f"{number}"])
        for number, (_, nodes) in enumerate(asked)
        for node in range(nodes)
    ]
    rooms = rooms_of([instance(id=id, offer=offer) for id, offer in offers.items()], running)
    placement = place(queue, rooms, [], [HERE] * len(machines))
    given_cards = Counter((one.instance_id, index) for one in running for index in one.share.gpus)
    for one in placement.placed:
        gpus, wants = offers[one.key].resources.gpus, one.job.demand.gpu
        assert wants is not None and len(one.share.gpus) >= (wants.count.min or 0)
        assert all(wants.fits(gpus[index]) for index in one.share.gpus)
        total = sum(gpus[index].memory_mib for index in one.share.gpus)
        assert wants.total_memory_mib is None or wants.total_memory_mib.holds(total)
        given_cards.update((one.key, index) for index in one.share.gpus)
    assert max(given_cards.values(), default=0) <= 1


def test_a_machine_of_another_project_is_not_used() -> None:
    theirs = instance(offer=CLOUD, project_id="1-project")
    assert place([job()], rooms_of([theirs], []), [], [CLOUD]).placed == []


def test_a_machine_that_is_not_shared_has_one_job() -> None:
    mine = instance(offer=CLOUD, project_id="0-project")
    queue = [job(id="a", run_id="a"), job(id="b", run_id="b")]
    assert placed(place(queue, rooms_of([mine], []), [], [CLOUD])) == [("a", "0-instance")]


def test_a_gang_that_no_machines_can_ever_hold_together_is_known() -> None:
    gang = [job(id=f"{node}", node=node, nodes=3, demand=demand(2)) for node in range(3)]
    assert can_ever_place(gang[:2], [HERE]), "two nodes share its four cores"
    assert not can_ever_place(gang, [HERE]), "there is one such machine only"
    assert can_ever_place(gang, [HERE, CLOUD])
    assert not can_ever_place(gang, [replace(CLOUD, machines_max=2)])


def test_a_gang_that_reuses_machines_may_find_them_later() -> None:
    assert can_ever_place([job(demand=replace(DEMAND, reuse_only=True))], [CLOUD])


DOCKER = Engine("docker", "27", "x86_64")
WITH_PYTHON = replace(CLOUD, region="a", price=0.1, resources=replace(CLOUD.resources, pythons=("3.12",)))
WITH_DOCKER = replace(CLOUD, region="b", price=0.2, resources=replace(CLOUD.resources, engine=DOCKER))


def two_nodes(**fields: Any) -> list[Job]:
    wanted = replace(DEMAND, **fields)
    return [job(id=f"{node}", node=node, nodes=2, demand=wanted) for node in range(2)]


def runtimes(placement: Placement) -> list[tuple[str, bool]]:
    rooms = {room.key: room.offer.region for room in placement.bought}
    return [(rooms[one.key], one.share.container) for one in placement.placed]


def test_all_nodes_are_processes_where_a_machine_has_no_container_engine() -> None:
    offers = [replace(WITH_PYTHON, machines_max=1), WITH_DOCKER]
    assert runtimes(place(two_nodes(), [], offers, [])) == [("a", False), ("b", False)]


def test_all_nodes_are_containers_where_no_other_machines_fit_all_of_them() -> None:
    offers = [replace(WITH_PYTHON, machines_max=1), WITH_DOCKER]
    assert runtimes(place(two_nodes(python="3.12"), [], offers, [])) == [("b", True), ("b", True)]


def test_gang_finds_a_common_runtime_among_the_offers_of_its_own_project() -> None:
    offers = [
        replace(WITH_PYTHON, machines_max=1, project_id="0-project"),
        replace(WITH_DOCKER, project_id="0-project"),
    ]
    assert runtimes(place(two_nodes(python="3.12"), [], offers, [])) == [("b", True), ("b", True)]


def test_gang_waits_where_its_machines_have_no_common_runtime() -> None:
    offers = [replace(one, machines_max=1) for one in (WITH_PYTHON, WITH_DOCKER)]
    queue = two_nodes(python="3.12")
    assert place(queue, [], offers, []).placed == []
    assert not can_ever_place(queue, offers)


def test_cheapest_machines_run_a_gang_as_processes_where_all_have_the_version_of_python() -> None:
    assert runtimes(place(two_nodes(python="3.12"), [], [WITH_PYTHON, WITH_DOCKER], [])) == [("a", False), ("a", False)]
