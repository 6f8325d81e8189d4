"""Idle machines that are in the way: which of them end, and which stay."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from dstack.domain.giving_way import ENDING, GIVES_WAY, make_way
from dstack.domain.market import Market
from dstack.domain.objects import Instance, Job
from dstack.domain.offers import Bounds, Offer, Share
from dstack.domain.placement import BEHIND, JobQueue, Placement, place
from dstack.domain.placement.passes import never_over
from dstack.domain.rooms import rooms_of
from dstack.protocol.agent import Engine
from dstack.protocol.statuses import InstanceStatus
from tests.making import CLOUD, DEMAND, HERE, instance, job, placed_job

WITH_ENGINE = replace(HERE, resources=replace(HERE.resources, engine=Engine("docker", "27.0", "x86_64")))
IN_CONTAINER = replace(DEMAND, container=("`image: x`",))
ONE, TWO = replace(CLOUD, machines_max=1), replace(CLOUD, machines_max=2)


def decided(
    queue: Sequence[Job],
    instances: Sequence[Instance],
    offers: Sequence[Offer],
    running: Sequence[Job] = (),
    is_over: Callable[[int], bool] = never_over,
) -> Placement:
    rooms = rooms_of(instances, running)
    in_use = Counter(one.offer.name for one in instances)
    waiting, market = JobQueue(queue), Market.of(offers)
    placement = place(waiting, rooms, market, in_use)
    make_way(placement, waiting, rooms, market, in_use, is_over=is_over)
    return placement


def waits(name: str = "0-job", **fields: object) -> Job:
    return job(id=name, run_id=name, demand=IN_CONTAINER, **fields)


def theirs(**fields: object) -> Instance:
    """An idle machine of another project."""
    return instance(**{"offer": ONE, "project_id": "1-project", **fields})


def test_an_idle_machine_that_does_not_fit_ends_where_only_one_may_exist() -> None:
    placement = decided([waits()], [instance()], [WITH_ENGINE])
    assert (placement.giving_way, placement.waiting) == (["0-instance"], {"0-job": GIVES_WAY})
    assert (placement.placed, placement.bought) == ([], [])


def test_while_it_ends_the_job_waits_and_no_other_machine_ends() -> None:
    ending = instance(status=InstanceStatus.TERMINATING, offer=TWO)
    other = theirs(id="1-instance", offer=TWO)
    placement = decided([job()], [ending, other], [TWO])
    assert (placement.giving_way, placement.waiting) == ([], {"0-run": ENDING})


@pytest.mark.parametrize("status", [InstanceStatus.BUSY, InstanceStatus.PROVISIONING])
def test_a_machine_that_is_not_idle_stays(status: InstanceStatus) -> None:
    assert decided([waits()], [instance(status=status)], [WITH_ENGINE]).giving_way == []


def test_a_machine_with_a_job_that_has_not_ended_stays() -> None:
    assert decided([waits()], [instance()], [WITH_ENGINE], [placed_job(id="a")]).giving_way == []


def test_a_machine_that_a_later_job_can_use_is_given_to_that_one() -> None:
    placement = decided([waits(), job(id="b", run_id="b")], [instance()], [WITH_ENGINE])
    assert [placed.job.id for placed in placement.placed] == ["b"]
    assert placement.giving_way == []


def test_a_machine_that_a_waiting_job_can_use_stays() -> None:
    gang = [job(id=name, run_id="b", node=node, nodes=2) for node, name in enumerate("bc")]
    mine = instance(offer=ONE, project_id="0-project")
    other = job(id="a", run_id="a", project_id="1-project")
    assert decided([other], [mine], [ONE]).giving_way == ["0-instance"]
    assert decided([other, *gang], [mine], [ONE]).giving_way == []


def test_lines_that_no_idle_machine_can_help_use_up_no_time_of_those_behind_them() -> None:
    full = replace(CLOUD, region="eu-west-2", machines_max=1)
    busy = instance(id="1-instance", status=InstanceStatus.BUSY, offer=full, project_id="0-project")
    there = placed_job(id="a", instance_id="1-instance")
    first = job(demand=replace(DEMAND, regions=("eu-west-2",)))
    last = job(id="b", run_id="b", demand=replace(DEMAND, regions=("eu-west-1",)))
    placement = decided([first, last], [busy, theirs()], [ONE, full], [there], is_over=lambda placed: True)
    assert placement.giving_way == ["0-instance"]


def test_where_another_can_be_bought_nothing_ends() -> None:
    placement = decided([job()], [theirs(offer=TWO)], [TWO])
    assert (placement.giving_way, len(placement.bought)) == ([], 1)
    assert decided([job()], [theirs(offer=CLOUD)], [CLOUD]).giving_way == []


def test_only_as_many_end_as_are_needed_and_none_where_all_are_too_few() -> None:
    idle = [theirs(id=f"{number}-instance", offer=TWO) for number in range(2)]
    gang = [job(id=f"{node}", node=node, nodes=3) for node in range(3)]
    assert len(decided([job()], idle, [TWO]).giving_way) == 1
    assert len(decided(gang[:2], idle, [TWO]).giving_way) == 2
    assert decided(gang, idle, [TWO]).giving_way == []


def test_a_machine_that_is_kept_for_ever_stays_unless_it_is_this_one() -> None:
    assert decided([job()], [theirs(idle_duration=None)], [ONE]).giving_way == []
    assert decided([waits()], [instance(idle_duration=None)], [WITH_ENGINE]).giving_way == ["0-instance"]


def test_a_run_behind_another_one_is_not_said_to_wait_for_the_end_of_a_machine() -> None:
    large = job(id="a", run_id="a", demand=replace(DEMAND, cpus=Bounds(4, None, True), backends=("local",)))
    small = job(id="b", run_id="b", demand=replace(DEMAND, backends=("local",)))
    running = placed_job(id="c", share=Share(2, 4096))
    placement = decided([large, small], [instance(), theirs(id="1-instance")], [HERE, ONE], [running])
    assert (placement.placed, placement.giving_way) == ([], [])
    assert placement.waiting["b"] == BEHIND
