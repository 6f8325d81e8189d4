from dataclasses import replace
from datetime import timedelta

import pytest

from dstack.domain.intents import Failed, LocateMachine, StopJob
from dstack.domain.objects import Next
from dstack.domain.offers import Share
from dstack.engine.lifecycles import check_move
from dstack.errors import AgentRefused, BackendError, Conflict, IllegalMove
from dstack.kit.clock import SystemClock
from dstack.kit.ids import RandomIds
from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus, RunStatus
from dstack.store import commits, events, intents, objects, queue, wakes
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.making import CLOUD, NOW, HandClock, ended, instance, job, placed_job, run


def born(tx: Tx) -> None:
    commits.add_run(tx, run(), [job(version=0)], actor="user ada")
    commits.commit(tx, Next((instance(version=0),)), check_move)


def take(tx: Tx) -> set[tuple[str, str]]:
    """Take what is due, as the engine would."""
    wakes.take_due(tx)
    taken = set(tx.wakes)
    tx.wakes.clear()
    return taken


async def test_objects_come_back_as_they_were_written(db: Database) -> None:
    report = ended(exit_code=3, started_at=1.5, message="é")
    fields = {"status": JobStatus.RUNNING, "report": report, "reason": JobReason.EXITED, "lost_at": NOW}
    full = placed_job(version=0, ports={80: None, 81: 8000}, share=Share(1, 4096, (1,), container=True), **fields)
    machine = instance(version=0, offer=CLOUD, unreachable_since=NOW, idle_duration=None)

    def write(tx: Tx) -> None:
        commits.add_run(tx, run(stop_asked=JobReason.STOPPED_BY_USER, retry_at=NOW), [], actor="user ada")
        commits.commit(tx, Next((machine, full)), check_move)

    await db.write(write)
    assert await db.read(lambda tx: objects.find_job(tx, "0-job")) == replace(full, version=1)
    assert await db.read(lambda tx: objects.find_instance(tx, "0-instance")) == replace(machine, version=1)
    assert await db.read(lambda tx: objects.find_run(tx, "0-run")) == run(
        stop_asked=JobReason.STOPPED_BY_USER, retry_at=NOW
    )


async def test_who_decided_on_an_older_version_writes_nothing(db: Database) -> None:
    await db.write(born)
    decided = Next((job(version=1, stop_asked=JobReason.SERVER),), (StopJob("0-job", "0-instance", 1.0),))
    await db.write(lambda tx: commits.commit(tx, decided, check_move))
    with pytest.raises(Conflict):
        await db.write(lambda tx: commits.commit(tx, replace(decided, do=(StopJob("0-job", "x", 2.0),)), check_move))
    assert len(await db.read(intents.list_open)) == 1


async def test_an_object_that_stays_as_it_is_is_not_written_and_wakes_nobody(db: Database) -> None:
    await db.write(born)
    await db.write(take)
    await db.write(lambda tx: commits.commit(tx, Next((instance(version=1),)), check_move))
    assert await db.write(take) == set()
    assert await db.read(lambda tx: objects.find_instance(tx, "0-instance")) == instance(version=1)


async def test_a_move_that_is_not_in_the_table_is_refused(db: Database) -> None:
    await db.write(born)
    with pytest.raises(IllegalMove, match="job may not go from submitted to done"):
        await db.write(lambda tx: commits.commit(tx, Next((job(status=JobStatus.DONE),)), check_move))


async def test_every_move_is_one_line_of_history(db: Database) -> None:
    await db.write(born)
    ending = job(status=JobStatus.TERMINATING, reason=JobReason.STOPPED_BY_USER, detail="as asked")
    await db.write(lambda tx: commits.commit(tx, Next((ending,)), check_move))
    lines = await db.read(lambda tx: events.list_after(tx, "0-project", 0, run_id="0-run", limit=10, shared=True))
    assert [(line.kind, line.status, line.message) for line in lines] == [
        ("run.submitted", "submitted", "ada submitted hello"),
        ("job.terminating", "terminating", "job is terminating (stopped by user: as asked)"),
    ]


async def test_history_distinguishes_instances_of_the_same_type(db: Database) -> None:
    ids = [RandomIds(SystemClock()).new_id() for _ in range(2)]
    busy = [replace(instance(), id=id, status=InstanceStatus.BUSY) for id in ids]
    for one in busy:
        await db.write(lambda tx, one=one: events.add_move(tx, one, actor="engine"))
    lines = await db.read(lambda tx: events.list_after(tx, "0-project", 0, run_id=None, limit=10, shared=True))
    assert [line.message for line in lines] == [f"instance local …{id[-12:]} is busy" for id in ids]


async def test_the_queue_is_looked_at_as_soon_as_a_jobs_processes_are_gone(db: Database) -> None:
    await db.write(born)
    await db.write(take)
    over = replace(placed_job(), status=JobStatus.PROVISIONING)
    await db.write(lambda tx: commits.commit(tx, Next((over,)), check_move))
    await db.write(take)
    gone = replace(over, version=2, report=ended())
    await db.write(lambda tx: commits.record(tx, gone))
    assert await db.write(take) == {("job", "0-job"), ("scheduler", "placement")}


async def test_the_queue_goes_by_priority_and_then_by_who_waited_longest(db: Database) -> None:
    def write(tx: Tx) -> None:
        for number, priority in enumerate([0, 5, 0, 5]):
            one = run(id=f"{number}-run", priority=priority, submitted_at=NOW + timedelta(seconds=number))
            commits.add_run(tx, one, [job(id=f"{number}", run_id=one.id, version=0)], actor="user ada")
        stopped = run(id="9-run", stop_asked=JobReason.STOPPED_BY_USER)
        commits.add_run(tx, stopped, [job(id="9", run_id="9-run", version=0)], actor="user ada")

    await db.write(write)
    found = await db.read(lambda tx: [id for gang in queue.Waiting(tx).gangs(()) for id in gang.ids])
    assert found == ["1", "3", "0", "2"]


async def test_a_name_means_the_latest_run_of_that_name(db: Database) -> None:
    def write(tx: Tx) -> None:
        commits.add_run(tx, run(id="1-run", status=RunStatus.DONE, finished_at=NOW), [], actor="user ada")
        commits.add_run(tx, run(id="2-run"), [], actor="user ada")

    await db.write(write)
    for name, id in (("hello", "2-run"), ("1-run", "1-run")):
        found = await db.read(lambda tx, name=name: objects.find_run_by(tx, "0-project", name))  # type: ignore[misc]
        assert found is not None and found.id == id


async def test_a_deleted_run_leaves_nothing_behind(db: Database) -> None:
    await db.write(born)
    assert await db.write(lambda tx: commits.delete_run(tx, "0-run")) == ["0-job"]
    assert await db.read(lambda tx: objects.find_job(tx, "0-job")) is None
    assert await db.read(lambda tx: events.list_after(tx, "0-project", 0, run_id="0-run", limit=10, shared=True)) == []


async def test_an_earlier_wake_stays(db: Database, clock: HandClock) -> None:
    await db.write(lambda tx: wakes.add(tx, "run", "r", after=timedelta(seconds=5)))
    await db.write(lambda tx: wakes.add(tx, "run", "r", after=timedelta(seconds=50)))
    assert await db.write(wakes.take_due) == NOW + timedelta(seconds=5)
    assert await db.write(take) == set()
    clock.time += timedelta(seconds=6)
    assert await db.write(take) == {("run", "r")}
    assert await db.write(wakes.take_due) is None


async def test_the_same_intent_is_asked_for_once_until_it_failed(db: Database) -> None:
    intent = StopJob("0-job", "0-instance", 1.0)
    for _ in range(2):
        await db.write(lambda tx: intents.add(tx, intent))
    (only,) = await db.read(intents.list_open)
    await db.write(lambda tx: intents.record(tx, only, Failed(AgentRefused("no", hint="why"))))
    outcome = (await db.read(lambda tx: intents.outcomes_of(tx, "job", "0-job")))[StopJob]
    assert isinstance(outcome, Failed) and (outcome.error.message, outcome.error.hint) == ("no", "why")
    await db.write(lambda tx: intents.add(tx, intent))
    (again,) = await db.read(intents.list_open)
    assert again.position > only.position


async def test_numbered_intent_is_asked_for_once_though_it_failed(db: Database) -> None:
    look = LocateMachine("0-instance", 1, "aws")
    await db.write(lambda tx: intents.add(tx, look))
    (only,) = await db.read(intents.list_open)
    await db.write(lambda tx: intents.record(tx, only, Failed(BackendError("the key is revoked"))))
    await db.write(lambda tx: intents.add(tx, look))
    assert await db.read(intents.list_open) == [], "a step that is woken by the failure asks for the same again"
    await db.write(lambda tx: intents.add(tx, replace(look, number=2)))
    assert [one.intent for one in await db.read(intents.list_open)] == [replace(look, number=2)]


async def test_a_live_instance_is_one_whose_machine_may_exist(db: Database) -> None:
    gone = instance(id="1-instance", version=0, status=InstanceStatus.TERMINATED, finished_at=NOW)
    await db.write(lambda tx: commits.commit(tx, Next((instance(version=0), gone)), check_move))
    assert [one.id for one in await db.read(objects.live_instances)] == ["0-instance"]


async def test_a_reader_shows_objects_as_they_are_by_now(db: Database) -> None:
    await db.write(born)

    def read(tx: Tx) -> tuple[list[JobStatus], list[str]]:
        listed, _ = objects.list_runs(tx, "0-project", limit=10)
        jobs = objects.attempts_of_runs(tx, [run.id for run in listed])
        machines = objects.instances_by_id(tx, ["0-instance", "missing"])
        statuses = [job.status for of_run in jobs.values() for tries in of_run.values() for job in tries]
        return statuses, [one.detail for one in machines.values()]

    before = await db.read(read)
    assert (before, await db.read(read)) == (([JobStatus.SUBMITTED], [""]), before)

    def change(tx: Tx) -> None:
        of, machine = objects.find_job(tx, "0-job"), objects.find_instance(tx, "0-instance")
        assert of is not None and machine is not None
        commits.commit(tx, Next((replace(of, status=JobStatus.PROVISIONING),)), check_move)
        commits.record(tx, replace(machine, detail="new"))

    await db.write(change)
    assert await db.read(read) == ([JobStatus.PROVISIONING], ["new"])
