"""What a run that has not started yet waits for, in words."""

import pytest

from dstack.operations.presenting import brief_view
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.store import commits
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.making import placed_job, report, run


@pytest.mark.parametrize(("state", "shown"), [("preparing", "cloning https://example.com/a"), ("running", "")])
async def test_slow_preparation_is_shown_until_the_job_runs(db: Database, state: str, shown: str) -> None:
    said = report(state=state, message="cloning https://example.com/a")
    job = placed_job(status=JobStatus.PROVISIONING, report=said, instance_id=None, version=0)

    def make(tx: Tx) -> str:
        commits.add_run(tx, of := run(status=RunStatus.PROVISIONING), [job], actor="user ada")
        return brief_view(tx, of).detail

    assert await db.write(make) == shown
