"""An agent's order says what the job was made from, whatever has become of its run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dstack.domain.births import next_attempt
from dstack.domain.objects import Job, Next, Run
from dstack.engine.lifecycles import check_move
from dstack.engine.orders import complete_order
from dstack.errors import ResourceNotExistsError
from dstack.operations.context import Context
from dstack.protocol.agent import JobOrder
from dstack.store import commits, objects, revisions
from dstack.store.tx import Tx
from tests.making import NOW, instance, job, placed_job, run


def spec_of(command: str, **fields: Any) -> dict[str, Any]:
    return {"configuration": {"type": "task", "commands": [command], **fields}}


@pytest.fixture
async def changed(context: Context) -> Run:
    """A run whose script has changed since its job was made."""

    def write(tx: Tx) -> Run:
        commits.commit(tx, Next((instance(version=0),)), check_move)
        commits.add_run(tx, run(spec=spec_of("old")), [placed_job(version=0)], actor="user ada")
        of = objects.find_run(tx, "0-run")
        assert of is not None
        return commits.revise(tx, of, spec_of("new", ports=["80"], stop_duration=7), user_id="0-user")

    return await context.db.write(write)


def order_for(context: Context, job_id: str) -> Callable[[Tx], JobOrder]:
    return lambda tx: complete_order(tx, job_id, context.vault)


async def test_a_job_starts_with_the_script_that_it_was_made_from(context: Context, changed: Run) -> None:
    order = await context.db.recall(order_for(context, "0-job"))
    assert order.script.splitlines()[0] == "old"


async def test_the_next_attempt_is_made_from_the_current_revision(context: Context, changed: Run) -> None:
    def write(tx: Tx) -> Job:
        of, before = objects.find_run(tx, "0-run"), objects.find_job(tx, "0-job")
        assert of is not None and before is not None
        again = next_attempt(of, before, "1-job", NOW)
        commits.commit(tx, Next((replace(again, instance_id="0-instance"),)), check_move)
        return again

    again = await context.db.write(write)
    assert (again.revision, again.ports, again.stop_grace_s, again.attempt) == (2, {80: 80}, 7.0, 2)
    order = await context.db.recall(order_for(context, "1-job"))
    assert order.script.splitlines()[0] == "new"


async def test_every_revision_is_on_record_until_the_run_is_deleted(context: Context, changed: Run) -> None:
    def read(tx: Tx) -> list[object]:
        of = objects.find_run(tx, "0-run")
        assert of is not None
        return [revisions.find(tx, of, number).spec for number in (1, 2)]

    assert await context.db.read(read) == [spec_of("old"), spec_of("new", ports=["80"], stop_duration=7)]
    await context.db.write(lambda tx: commits.delete_run(tx, "0-run"))
    with pytest.raises(ResourceNotExistsError, match="has no revision 1"):
        await context.db.read(lambda tx: revisions.find(tx, changed, 1))


def test_an_attempt_of_the_same_revision_is_as_the_one_before() -> None:
    before = job(demand=job().demand, ports={1: None}, stop_grace_s=3.0)
    again = next_attempt(run(), before, "1-job", NOW)
    assert (again.demand, again.ports, again.stop_grace_s) == (before.demand, before.ports, before.stop_grace_s)
