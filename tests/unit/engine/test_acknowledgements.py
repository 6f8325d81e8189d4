"""Which data planes a draining replica waits for is on record, and so are their acknowledgements."""

from dataclasses import replace

from dstack.domain.objects import Job, Next
from dstack.domain.rollouts import Rollout
from dstack.engine.drains import drained
from dstack.engine.leases import Leases
from dstack.engine.lifecycles import check_move
from dstack.kit.ids import RandomIds
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from dstack.store import commits, leases, objects, revisions
from dstack.store.db import Database
from dstack.store.kinds import KINDS
from dstack.store.tx import Tx
from tests.making import NOW, HandClock, instance, job, placed_job, report, run

SPEC = {"configuration": {"type": "service", "port": 80, "commands": ["x"]}}
SERVICE = run(type="service", spec=SPEC, status=RunStatus.RUNNING)


async def serving(db: Database, **fields: object) -> None:
    """Put a service on record whose replica runs."""
    running = replace(placed_job(status=JobStatus.RUNNING, report=report(ready=True)), **fields)  # type: ignore[arg-type]

    def write(tx: Tx) -> None:
        commits.commit(tx, Next((instance(version=0),)), check_move)
        commits.add_run(tx, SERVICE, [running], actor="user ada")

    await db.write(write)


async def the_job(db: Database) -> Job:
    found = await db.read(lambda tx: objects.find_job(tx, "0-job"))
    assert found is not None
    return found


async def test_acknowledgement_of_a_server_is_stored_once(db: Database) -> None:
    await serving(db, draining_since=NOW, stop_asked=JobReason.REPLACED)
    for server in ("one", "two", "one"):
        await db.write(lambda tx, server=server: drained(tx, "0-job", server))  # type: ignore[misc]
    found = await the_job(db)
    assert (found.drained_by, found.draining_since, found.stop_asked) == (("one", "two"), NOW, JobReason.REPLACED)


async def test_acknowledgement_of_a_job_that_does_not_drain_is_ignored(db: Database) -> None:
    await serving(db)
    for id in ("0-job", "of no job"):
        await db.write(lambda tx, id=id: drained(tx, id, "one"))  # type: ignore[misc]
    assert (await the_job(db)).drained_by == ()


async def test_draining_replica_is_looked_at_with_the_live_data_planes(db: Database, clock: HandClock) -> None:
    await serving(db, draining_since=NOW, stop_asked=JobReason.REPLACED)

    def planes(tx: Tx) -> frozenset[str]:
        found = objects.find_job(tx, "0-job")
        view = KINDS["job"].view(tx, found, RandomIds(clock))
        assert view.data_planes == leases.with_data_planes(tx)
        return leases.with_data_planes(tx)

    one = Leases(db, clock, "one", "here", alone=True)
    one.expect_data_plane()
    await one.start()
    assert await db.write(planes) == {"one"}, "from the first moment"
    await one.set_data_plane(is_there=False)
    assert await db.write(planes) == frozenset()
    await one.set_data_plane(is_there=True)
    assert await db.write(planes) == {"one"}


async def test_run_is_looked_at_when_a_replica_becomes_ready_or_drains(db: Database) -> None:
    await serving(db)
    assert await looked_at(db, report=report(ready=True, guests=1)) is False
    assert await looked_at(db, report=report(ready=False)) is True
    assert await looked_at(db, draining_since=NOW, stop_asked=JobReason.REPLACED) is True


async def looked_at(db: Database, **fields: object) -> bool:
    """Return whether a change of the replica wakes its run, and lets clients know."""

    def write(tx: Tx) -> bool:
        tx.wakes.clear()
        found = objects.find_job(tx, "0-job")
        assert found is not None
        commits.record(tx, replace(found, **fields))  # type: ignore[arg-type]
        assert (("run", "0-run") in tx.wakes) == ("0-run" in tx.notices.changed)
        return ("run", "0-run") in tx.wakes

    return await db.write(write)


async def test_revision_of_a_step_is_on_record_with_its_reason(db: Database) -> None:
    await serving(db)
    spec = {"configuration": {**SPEC["configuration"], "commands": ["old"]}}
    why = "revision 1 was rolled back: it failed"
    rolled_back = replace(SERVICE, revision=2, spec=spec, detail=why, rollout=Rollout(NOW, 1, 1))
    await db.write(lambda tx: commits.commit(tx, Next((rolled_back,)), check_move))

    def read(tx: Tx) -> tuple[object, object]:
        found = objects.find_run(tx, "0-run")
        assert found is not None and found.rollout == Rollout(NOW, 1, 1)
        return revisions.find(tx, found, 1).spec, revisions.made_at(tx, found)

    assert await db.read(read) == (SPEC, NOW)


async def test_service_is_looked_at_with_ids_for_all_that_may_begin(db: Database, clock: HandClock) -> None:
    spec = {"configuration": {**SPEC["configuration"], "replicas": 3}}
    of = replace(SERVICE, spec=spec)
    await db.write(lambda tx: commits.add_run(tx, of, [job(version=0)], actor="user ada"))

    def ids(tx: Tx) -> int:
        return len(KINDS["run"].view(tx, of, RandomIds(clock)).new_ids)

    assert await db.write(ids) == 3, "four may live, and one does"
