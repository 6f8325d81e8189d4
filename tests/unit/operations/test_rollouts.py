"""A service that goes on is changed in place, replica by replica, or not at all."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.objects import Job, Run
from dstack.domain.rollouts import Rollout
from dstack.errors import InvalidRequestError
from dstack.operations import history, planning, runs, submitting, updating
from dstack.operations.context import Context
from dstack.protocol.agent import JobReport
from dstack.protocol.requests import RepoRef, SubmitRun, UpdateRun
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.store import commits, objects, users
from dstack.store.tx import Tx

ADMIN = users.User("0-user", "ada", is_admin=True)


def wish(repo: RepoRef | None = None, **fields: Any) -> SubmitRun:
    base = {"type": "service", "port": 80, "commands": ["x"], "replicas": 2}
    return SubmitRun(run_name="web", configuration={**base, **fields}, repo=repo)


async def on_record(context: Context, run_id: str) -> tuple[Run, list[Job]]:
    def read(tx: Tx) -> tuple[Run, list[Job]]:
        run = objects.find_run(tx, run_id)
        assert run is not None
        return run, objects.jobs_of_run(tx, run_id)

    return await context.db.read(read)


async def submitted(context: Context, *, is_ready: bool = True, **fields: Any) -> str:
    """Submit a service, and have its replicas run."""
    view = await submitting.submit(context, ADMIN, "main", wish(**fields), None)

    def begin(tx: Tx) -> None:
        for job in objects.jobs_of_run(tx, view.id):
            report = JobReport(job.id, "running", ready=is_ready, unready_reason="" if is_ready else "it loads")
            commits.record(tx, replace(job, status=JobStatus.RUNNING, report=report))

    await context.db.write(begin)
    return view.id


async def test_plan_shows_how_each_field_of_a_service_changes(context: Context) -> None:
    await submitted(context)
    new = wish(replicas=3, auth=False, env={"A": "1"}, schedule={"cron": "0 12 * * *"})
    plan = await planning.plan(context, ADMIN, "main", new)
    assert [(one.field, one.in_place, one.by_rollout) for one in plan.changes] == [
        ("auth", True, False),
        ("env", False, True),
        ("replicas", True, False),
        ("schedule", False, False),
    ]


async def test_number_of_replicas_changes_in_place(context: Context) -> None:
    id = await submitted(context)
    view = await updating.update(context, ADMIN, "main", "web", wish(replicas=3))
    run, _ = await on_record(context, id)
    assert (run.revision, run.deployment, run.rollout) == (2, 1, None)
    assert (view.replicas_ready, view.replicas_asked) == (2, 3)


async def test_another_command_begins_a_rollout_with_a_way_back(context: Context) -> None:
    id = await submitted(context)
    view = await updating.update(context, ADMIN, "main", "web", wish(commands=["y"]))
    run, _ = await on_record(context, id)
    assert (run.revision, run.deployment) == (2, 2)
    assert run.rollout is not None and run.rollout == Rollout(run.rollout.since, 1, 1)
    assert view.detail.startswith("revision 2 rolls out: 0 of 2 ready")


async def test_service_that_was_never_ready_has_no_way_back(context: Context) -> None:
    id = await submitted(context, is_ready=False)
    await updating.update(context, ADMIN, "main", "web", wish(commands=["y"]))
    run, _ = await on_record(context, id)
    assert run.rollout is not None and run.rollout.back_to is None


async def test_second_change_keeps_the_way_back_and_the_former_spec_ends_the_rollout(context: Context) -> None:
    id = await submitted(context)
    await updating.update(context, ADMIN, "main", "web", wish(commands=["y"]))
    await updating.update(context, ADMIN, "main", "web", wish(commands=["z"], replicas=3), force=True)
    run, _ = await on_record(context, id)
    assert run.rollout is not None and run.rollout == Rollout(run.rollout.since, 1, 1, is_forced=True)
    assert (run.revision, run.deployment) == (3, 3)
    await updating.update(context, ADMIN, "main", "web", wish(replicas=3))
    run, _ = await on_record(context, id)
    assert (run.revision, run.deployment) == (4, 1), "its replicas are right already"
    assert run.rollout is not None and run.rollout.back_to is None


async def test_rollout_that_waits_can_be_forced_without_another_change(context: Context) -> None:
    id = await submitted(context)
    await updating.update(context, ADMIN, "main", "web", wish(commands=["y"]))
    await updating.update(context, ADMIN, "main", "web", wish(commands=["y"]), force=True)
    run, _ = await on_record(context, id)
    assert run.revision == 2 and run.rollout is not None and run.rollout.is_forced
    page = await history.list_events(context, ADMIN, "main", run="web", after=0, limit=100)
    assert [event.message for event in page.events if event.kind == "run.updated"] == [
        "ada changed commands of web",
        "ada had the replicas of web replaced at once",
    ]


async def test_service_that_waits_for_its_next_attempt_starts_at_once_with_another_spec(context: Context) -> None:
    id = await submitted(context)
    run, _ = await on_record(context, id)
    now = run.submitted_at
    waits = {"status": RunStatus.PENDING, "retry_at": now + timedelta(hours=1), "failing_since": now}
    await context.db.write(lambda tx: commits.record(tx, replace(run, **waits)))
    await updating.update(context, ADMIN, "main", "web", wish(commands=["y"]))
    assert (await on_record(context, id))[0].retry_at == now


async def test_other_files_begin_a_rollout_and_none_change_nothing(context: Context) -> None:
    files = RepoRef(id="r", root="a" * 64)
    id = await submitted(context, repo=files)
    await updating.update(context, ADMIN, "main", "web", wish(priority=3))
    run, _ = await on_record(context, id)
    assert (run.deployment, run.spec["repo"]["root"]) == (1, "a" * 64)
    await updating.update(context, ADMIN, "main", "web", wish(RepoRef(id="r", root="b" * 64), priority=3))
    run, _ = await on_record(context, id)
    assert (run.deployment, run.spec["repo"]["root"]) == (3, "b" * 64)
    await updating.update(context, ADMIN, "main", "web", wish(commands=["y"], priority=3))
    run, _ = await on_record(context, id)
    assert (run.deployment, run.spec["repo"]["root"]) == (4, "b" * 64)


async def test_another_type_or_schedule_is_refused_by_name(context: Context) -> None:
    id = await submitted(context)
    task = SubmitRun(run_name="web", configuration={"type": "task", "commands": ["x"]})
    with pytest.raises(InvalidRequestError, match="The run `web` is a service, and cannot become a task"):
        await updating.update(context, ADMIN, "main", "web", task)
    with pytest.raises(InvalidRequestError, match="cannot continue with another `schedule`"):
        await updating.update(context, ADMIN, "main", "web", wish(schedule={"cron": "0 12 * * *"}))
    assert (await on_record(context, id))[0].revision == 1


async def test_secret_that_is_missing_is_refused_before_the_rollout(context: Context) -> None:
    id = await submitted(context)
    with pytest.raises(InvalidRequestError, match="no secret `KEY`"):
        await updating.update(context, ADMIN, "main", "web", wish(env={"K": "${{ secrets.KEY }}"}))
    assert (await on_record(context, id))[0].revision == 1


async def test_view_of_a_service_shows_which_replicas_are_ready(context: Context) -> None:
    await submitted(context, is_ready=False)
    view = await runs.get(context, ADMIN, "main", "web")
    assert (view.replicas_ready, view.replicas_asked) == (0, 2)
    assert [(job.ready, job.draining, job.detail) for job in view.jobs] == [(False, False, "it loads")] * 2


def test_update_is_a_submit_with_force() -> None:
    update = UpdateRun(run_name="web", configuration={"type": "service"}, force=True)
    assert update.wish == SubmitRun(run_name="web", configuration={"type": "service"})
