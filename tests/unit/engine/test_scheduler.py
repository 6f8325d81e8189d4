"""Placement with the store: which machines take new jobs."""

import pytest

from dstack.domain.market import EMPTY
from dstack.domain.objects import Next
from dstack.engine.catalog import HIDDEN
from dstack.engine.lifecycles import check_move
from dstack.engine.scheduler import Scheduler
from dstack.kit.ids import RandomIds
from dstack.protocol.statuses import JobStatus
from dstack.store import commits, objects
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.making import HandClock, instance, job, run

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
