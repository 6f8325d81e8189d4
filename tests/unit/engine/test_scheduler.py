"""Placement with the store: which machines take new jobs, and how a long pass goes on."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.event import listen, remove

from dstack.domain.market import EMPTY
from dstack.domain.objects import Next
from dstack.domain.offers import Bounds, Demand, Share
from dstack.domain.placement import BEHIND, passes
from dstack.engine import scheduler as scheduler_module
from dstack.engine.catalog import HIDDEN
from dstack.engine.leases import TERMS
from dstack.engine.lifecycles import check_move
from dstack.engine.scheduler import PASS_FOR, Scheduler
from dstack.engine.turn import Turn
from dstack.kit.ids import RandomIds
from dstack.operations.context import Context
from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus
from dstack.store import commits, objects, wakes
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.tx import Tx
from tests.making import CLOUD, DEMAND, NOW, HandClock, instance, job, placed_job, run

HIDES = {"local": HIDDEN}


@pytest.mark.parametrize("has_machine", [True, False])
async def test_queued_run_waits_with_a_reason_while_the_backend_of_the_idle_machine_takes_no_jobs(
    db: Database, clock: HandClock, has_machine: bool
) -> None:
    def begin(tx: Tx) -> None:
        if has_machine:
            commits.commit(tx, Next((instance(version=0),)), check_move)
        commits.add_run(tx, run(version=0), [job(version=0)], actor="user ada")

    await db.write(begin)
    scheduler = Scheduler(RandomIds(clock))
    await db.write(lambda tx: scheduler.look(tx, EMPTY, check_move, HIDES))
    waits = await db.read(lambda tx: objects.find_job(tx, "0-job"))
    assert waits is not None and waits.status is JobStatus.SUBMITTED
    assert (scheduler.why_waiting("0-run") or "").endswith(HIDDEN)
    if has_machine:
        await db.write(lambda tx: scheduler.look(tx, EMPTY, check_move, {}))
        placed = await db.read(lambda tx: objects.find_job(tx, "0-job"))
        assert placed is not None
        assert (placed.status, placed.instance_id) == (JobStatus.PROVISIONING, "0-instance")


def demand(number: int) -> Demand:
    """Return requirements that no offer meets: each number has others."""
    return replace(DEMAND, cpus=Bounds(1000 + number, None, written=True))


def add(tx: Tx, number: int, wanted: Demand, **fields: Any) -> None:
    one = run(id=f"{number:02}-run", submitted_at=NOW + timedelta(seconds=number), **fields)
    commits.add_run(tx, one, [job(id=f"{number:02}", run_id=one.id, demand=wanted, version=0)], actor="user ada")


async def statuses(db: Database) -> dict[str, JobStatus]:
    jobs = await db.read(lambda tx: objects.jobs_by_id(tx, [f"{number:02}" for number in range(20)]))
    return {one.id: one.status for one in jobs}


async def commits_until_quiet(db: Database, turn: "SlowTurn") -> int:
    """Return the number of commits after which nothing is due."""
    for number in range(1, 100):
        await db.write(wakes.take_due)
        if not turn.has_rest:
            return number
    raise AssertionError("the pass does not end")


async def test_pass_that_reaches_its_bound_continues_in_later_commits_to_the_tail(
    db: Database, clock: HandClock, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = slow_turn(clock, context, monkeypatch)
    db.react(turn.take)

    def fill(tx: Tx) -> None:
        for number in range(10):
            add(tx, number, demand(number))
        add(tx, 10, DEMAND)

    await db.write(fill)
    assert turn.has_rest and (await statuses(db))["10"] is JobStatus.SUBMITTED
    asked = turn.looks
    assert await commits_until_quiet(db, turn) >= 5
    assert (await statuses(db))["10"] is JobStatus.PROVISIONING, "the tail has its turn"
    assert turn.looks > asked
    assert turn.why_waiting("09-run") == "no backend offers a machine that fits now"


async def test_tail_takes_nothing_that_an_earlier_part_of_the_pass_has_claimed(
    db: Database, clock: HandClock, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = slow_turn(clock, context, monkeypatch)
    db.react(turn.take)
    here = replace(DEMAND, backends=("local",))

    def fill(tx: Tx) -> None:
        other = instance(id="1-instance", offer=CLOUD, project_id="0-project", version=0)
        commits.commit(tx, Next((instance(version=0), other)), check_move)
        busy = placed_job(id="99", run_id="99-run", version=0, share=Share(2, 1024))
        commits.add_run(tx, run(id="99-run", name="busy"), [busy], actor="user ada")
        add(tx, 0, replace(here, cpus=Bounds(4, None, written=True)))
        for number in range(1, 10):
            add(tx, number, demand(number))
        add(tx, 10, here)

    await db.write(fill)
    await commits_until_quiet(db, turn)
    found = await statuses(db)
    assert {found[id] for id in ("00", "10")} == {JobStatus.SUBMITTED}
    assert turn.why_waiting("10-run") == BEHIND


async def test_change_during_a_pass_is_looked_at_once_the_pass_is_complete(
    db: Database, clock: HandClock, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = slow_turn(clock, context, monkeypatch)
    db.react(turn.take)

    def fill(tx: Tx) -> None:
        for number in range(10):
            add(tx, number, demand(number))

    await db.write(fill)
    assert turn.has_rest
    await db.write(lambda tx: add(tx, 11, DEMAND, priority=50))
    assert (await statuses(db))["11"] is JobStatus.PROVISIONING, "what has arrived ahead is looked at in its order"
    await commits_until_quiet(db, turn)


async def test_head_that_is_stopped_leaves_its_claims_to_those_behind_it(
    db: Database, clock: HandClock, context: Context
) -> None:
    turn = Turn(RandomIds(clock), context.catalog)
    db.react(turn.take)

    def fill(tx: Tx) -> None:
        commits.commit(tx, Next((instance(version=0),)), check_move)
        busy = placed_job(id="99", run_id="99-run", version=0, share=Share(2, 1024))
        commits.add_run(tx, run(id="99-run", name="busy"), [busy], actor="user ada")
        add(tx, 0, replace(DEMAND, cpus=Bounds(4, None, written=True)))
        add(tx, 1, DEMAND)

    await db.write(fill)
    assert (await statuses(db))["01"] is JobStatus.SUBMITTED

    def stop(tx: Tx) -> None:
        head = objects.find_run(tx, "00-run")
        assert head is not None
        commits.record(tx, replace(head, stop_asked=JobReason.STOPPED_BY_USER))

    await db.write(stop)
    assert (await statuses(db))["01"] is JobStatus.PROVISIONING


class SlowTurn(Turn):
    """A turn whose clock ticks a second with each gang."""

    looks = 0

    @property
    def has_rest(self) -> bool:
        return self._scheduler.has_rest


def slow_turn(clock: HandClock, context: Context, monkeypatch: pytest.MonkeyPatch) -> SlowTurn:
    turn = SlowTurn(RandomIds(clock), context.catalog)
    decide = passes.place

    def place(*args: Any, **more: Any) -> Any:
        is_over = more["is_over"]

        def ticking(placed: int) -> bool:
            turn.looks += 1
            clock.time += timedelta(seconds=1)
            return bool(is_over(placed))

        return decide(*args, **more | {"is_over": ticking})

    monkeypatch.setattr(scheduler_module, "place", place)
    return turn


async def test_pass_that_remembers_nothing_reads_with_few_statements(
    db: Database, clock: HandClock, dialect: Dialect
) -> None:
    machines, statements = 60, list[str]()

    def fill(tx: Tx) -> None:
        for number in range(machines):
            commits.commit(tx, Next((instance(id=f"{number:02}-instance", version=0),)), check_move)
            busy = placed_job(id=f"9{number:02}", run_id=f"9{number:02}-run", instance_id=f"{number:02}-instance")
            commits.add_run(tx, run(id=f"9{number:02}-run", name=f"b-{number}"), [busy], actor="user ada")
            add(tx, number, demand(number % 3))
        tx.wakes.clear()

    await db.write(fill)
    scheduler = Scheduler(RandomIds(clock))

    def look(tx: Tx) -> None:
        tx.known.clear()
        tx.lists.clear()
        listen(dialect.engine, "before_cursor_execute", count)
        scheduler.look(tx, EMPTY, check_move, {})
        remove(dialect.engine, "before_cursor_execute", count)

    def count(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    await db.write(look)
    assert scheduler.why_waiting("59-run") == BEHIND
    assert len(statements) < 12 < machines


@pytest.mark.parametrize("kind", ["run", "job", "instance"])
async def test_turn_reads_many_objects_with_few_statements(
    kind: str, db: Database, clock: HandClock, context: Context, dialect: Dialect
) -> None:
    """The sweep of a server wakes each job and each run of the queue, and other servers wait meanwhile."""
    number_of, statements = 60, list[str]()

    def fill(tx: Tx) -> None:
        for number in range(number_of):
            one = instance(id=f"{number:02}-instance", version=0, status=InstanceStatus.BUSY)
            commits.commit(tx, Next((one,)), check_move)
            busy = placed_job(id=f"{number:02}-job", run_id=f"{number:02}-run", instance_id=one.id)
            commits.add_run(tx, run(id=busy.run_id, name=f"b-{number}"), [busy], actor="user ada")
        tx.wakes.clear()

    await db.write(fill)
    turn = Turn(RandomIds(clock), context.catalog)

    def take(tx: Tx) -> None:
        tx.known.clear()
        tx.lists.clear()
        wakes.add_many(tx, [(kind, f"{number:02}-{kind}") for number in range(number_of)])
        listen(dialect.engine, "before_cursor_execute", count)
        turn.take(tx)
        remove(dialect.engine, "before_cursor_execute", count)

    def count(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    await db.write(take)
    assert len(statements) < 20 < number_of


async def test_run_that_cannot_be_read_keeps_no_other_from_its_look(
    db: Database, clock: HandClock, context: Context
) -> None:
    """Such as one in a status of a later version."""

    def fill(tx: Tx) -> None:
        for number in range(3):
            add(tx, number, demand(number), name=f"r-{number}")
        tx.select(text("UPDATE runs SET status = 'pondering', version = 9 WHERE id = '01-run'"))
        tx.wakes.clear()

    await db.write(fill)
    turn, left = Turn(RandomIds(clock), context.catalog), list[tuple[str, str]]()

    def take(tx: Tx) -> None:
        tx.known.clear()
        tx.lists.clear()
        wakes.add_many(tx, [("run", f"{number:02}-run") for number in range(3)])
        turn.take(tx)
        left.extend(tx.wakes)

    await db.write(take)
    assert ("run", "01-run") in left
    assert not {("run", "00-run"), ("run", "02-run")} & set(left)


def test_passes_of_a_commit_end_long_before_leases_expire() -> None:
    assert TERMS.renewed_every > PASS_FOR * 10
    assert TERMS.renewed_every < TERMS.margin < TERMS.lasts
