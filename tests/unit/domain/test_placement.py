from dataclasses import replace

from dstack.domain.offers import Bounds, Demand, GpuDemand, Share
from dstack.domain.placement import Placement, place, rooms_of
from dstack.protocol.agent import Gpu, HostResources
from dstack.protocol.statuses import InstanceStatus
from tests.making import CLOUD, DEMAND, HERE, instance, job, placed_job

A100 = Gpu("nvidia", "A100", 40960)
GPU_HERE = replace(HERE, resources=HostResources(8, 65536, 50_000, (A100, A100)))


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
    assert place([reuses], [], [CLOUD], []) == Placement()
    assert placed(place([reuses], rooms_of([instance()], []), [CLOUD], [])) == [("0-job", "0-instance")]
    assert [room.offer for room in place([reuses], [], [HERE, CLOUD], []).bought] == [HERE]


def test_no_more_machines_are_bought_than_there_are() -> None:
    ending = instance(status=InstanceStatus.TERMINATING)
    placement = place([job()], rooms_of([ending], []), [HERE], [HERE])
    assert placement == Placement()


def test_all_nodes_of_a_gang_or_none() -> None:
    gang = [job(id=f"{n}", node=n, nodes=3, demand=demand(2)) for n in range(3)]
    rooms = rooms_of([instance()], [])
    assert place(gang, rooms, [], [HERE]).placed == []
    assert rooms[0].cpus == 4, "what was taken for the first nodes is given back"
    placement = place(gang, rooms_of([instance()], []), [CLOUD], [])
    assert placed(placement) == [("0", "0-instance"), ("1", "0-instance"), ("2", "new-0")]


def test_a_large_job_that_has_to_wait_lets_a_small_one_pass() -> None:
    queue = [job(id="large", run_id="a", demand=demand(4)), job(id="small", run_id="b")]
    running = placed_job(share=Share(1, 1000))
    placement = place(queue, rooms_of([instance()], [running]), [], [HERE])
    assert placed(placement) == [("small", "0-instance")]


def test_a_card_belongs_to_one_job() -> None:
    wants = replace(DEMAND, gpu=GpuDemand(Bounds(1, 1, written=True)))
    queue = [job(id=f"{n}", run_id=f"r{n}", demand=wants) for n in range(3)]
    placement = place(queue, rooms_of([instance(offer=GPU_HERE)], []), [], [GPU_HERE])
    assert [one.share.gpus for one in placement.placed] == [(0,), (1,)]


def test_a_machine_of_another_project_is_not_used() -> None:
    theirs = instance(offer=CLOUD, project_id="1-project")
    assert place([job()], rooms_of([theirs], []), [], [CLOUD]).placed == []


def test_a_machine_that_is_not_shared_has_one_job() -> None:
    mine = instance(offer=CLOUD, project_id="0-project")
    queue = [job(id="a", run_id="a"), job(id="b", run_id="b")]
    assert placed(place(queue, rooms_of([mine], []), [], [CLOUD])) == [("a", "0-instance")]
