"""A machine that fails start after start is left alone for a while, and its reason is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from dstack.domain import placement as passes
from dstack.domain.market import Market
from dstack.domain.objects import Instance, Job
from dstack.domain.offers import Offer, OfferName
from dstack.domain.placement import JobQueue, Placement
from dstack.domain.resting import FIRST_REST, LONGEST_REST, after_failed_start, after_good_start
from dstack.domain.rooms import Room, rooms_of
from dstack.engine.instances.keeping import idle, work
from dstack.protocol.statuses import InstanceStatus
from tests.making import CLOUD, HERE, NOW, instance, instance_view, job, placed_job

WHY = "the host does not let another process start"
AGAIN = "tried again at 2030-01-01 12:00:10 UTC"
RESTS = f"the machine 127.0.0.1 takes no jobs: 3 starts in a row failed there ({WHY}); {AGAIN}"


def place(
    queue: Sequence[Job], rooms: Sequence[Room], offers: Sequence[Offer], in_use: Mapping[OfferName, int]
) -> Placement:
    return passes.place(JobQueue(queue), rooms, Market.of(offers), in_use)


def failing(times: int) -> Instance:
    """A machine on which so many starts in a row have failed, each when it takes jobs again."""
    machine, now = instance(), NOW
    for _ in range(times):
        now = machine.rests_until or now
        machine = after_failed_start(replace(machine, rests_until=None), WHY, now)
    return machine


def rest_after(times: int) -> timedelta | None:
    before, after = failing(times - 1), failing(times)
    return None if after.rests_until is None else after.rests_until - (before.rests_until or NOW)


def test_machine_rests_after_three_failures_in_a_row_and_each_time_for_twice_as_long() -> None:
    assert [rest_after(times) for times in (1, 2)] == [None, None]
    assert [rest_after(times) for times in (3, 4, 5)] == [FIRST_REST, FIRST_REST * 2, FIRST_REST * 4]
    assert rest_after(50) == LONGEST_REST


def test_what_fails_while_the_machine_rests_counts_no_more() -> None:
    resting = failing(3)
    assert after_failed_start(resting, "another reason", NOW) is resting


def test_machine_that_is_ending_counts_nothing() -> None:
    ending = instance(status=InstanceStatus.TERMINATING, detail="idle")
    assert after_failed_start(ending, WHY, NOW) is ending


def test_good_start_proves_the_machine_well() -> None:
    well = after_good_start(failing(4))
    assert (well.failed_starts, well.rests_until, well.detail) == (0, None, "")
    assert after_good_start(well) is well
    assert well.why_resting == ""


def test_resting_machine_gets_no_job_and_the_queue_says_why() -> None:
    resting = failing(3)
    assert resting.why_resting.startswith(RESTS.partition("tried again")[0])
    placement = place([job()], rooms_of([resting], []), [HERE], {HERE.name: 1})
    assert (placement.placed, placement.bought) == ([], [])
    assert placement.waiting == {"0-run": resting.why_resting}


def test_another_machine_takes_the_jobs_of_one_that_rests() -> None:
    resting, well = failing(3), instance(id="1-instance")
    placed = place([job()], rooms_of([resting, well], []), [], {}).placed
    assert [one.key for one in placed] == ["1-instance"]
    cloud = replace(resting, offer=CLOUD)
    assert [one.key for one in place([job()], rooms_of([cloud], []), [CLOUD], {CLOUD.name: 1}).placed] == ["new-0"]


def test_queue_says_of_busy_and_of_resting_machines() -> None:
    resting, full = failing(3), instance(id="1-instance")
    jobs = [placed_job(id=f"{n}", instance_id="1-instance") for n in range(4)]
    (why,) = place([job()], rooms_of([resting, full], jobs), [], {}).waiting.values()
    busy = "needs 1 CPU and 4GB; 0 of 4 CPUs and 0MB are free on local; a run there must end first"
    assert why.startswith(f"{busy}; the machine 127.0.0.1 takes")


def test_machine_takes_jobs_again_when_its_rest_is_over() -> None:
    resting = failing(3)
    assert resting.rests_until is not None
    before = resting.rests_until - timedelta(seconds=4)
    assert idle(instance_view(resting, now=before)).again == timedelta(seconds=4)
    assert work(instance_view(resting, placed_job(), now=before)).again == timedelta(seconds=4)
    for step, jobs in ((idle, ()), (work, (placed_job(),))):
        (rested,) = step(instance_view(resting, *jobs, now=resting.rests_until)).write
        assert rested == replace(resting, rests_until=None)
