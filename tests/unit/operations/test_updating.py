"""A run that goes on is changed where that can be, and left alone where not."""

from typing import Any

import pytest

from dstack.domain.updates import changes, shown
from dstack.errors import InvalidRequestError
from dstack.operations import planning, runs, submitting, updating
from dstack.operations.context import Context
from dstack.protocol.requests import SubmitRun
from dstack.spec.service import Service
from dstack.spec.task import Task
from dstack.store import users


def wish(**fields: Any) -> SubmitRun:
    return SubmitRun(run_name="one", configuration={"type": "task", "commands": ["true"], **fields})


ADMIN = users.User("0-user", "ada", is_admin=True)


async def test_what_has_its_effect_later_is_changed_in_place(context: Context) -> None:
    before = await submitting.submit(context, ADMIN, "main", wish(priority=1), None)
    new = wish(priority=9, retry=True, stop_duration="1m", tags={"a": "b"})
    plan = await planning.plan(context, ADMIN, "main", new)
    assert [(one.field, one.in_place) for one in plan.changes] == [
        ("priority", True),
        ("retry", True),
        ("stop_duration", True),
        ("tags", True),
    ]
    after = await updating.update(context, ADMIN, "main", "one", new)
    assert (after.id, after.priority, after.spec["configuration"]) == (before.id, 9, new.configuration)
    found = await runs.get(context, ADMIN, "main", "one")
    assert found.spec["configuration"]["retry"] is True
    revisions = [(one.revision, [job.revision for job in one.jobs]) for one in (before, after, found)]
    assert revisions == [(1, [1]), (2, [1]), (2, [1])], "a job keeps the revision that it was made from"
    assert (await planning.plan(context, ADMIN, "main", new)).changes == []


async def test_how_long_a_dev_environment_may_stand_idle_is_changed_in_place(context: Context) -> None:
    def desk(**fields: Any) -> SubmitRun:
        configuration = {"type": "dev-environment", "ide": "vscode", **fields}
        return SubmitRun(run_name="desk", configuration=configuration)

    await submitting.submit(context, ADMIN, "main", desk(), None)
    plan = await planning.plan(context, ADMIN, "main", desk(inactivity_duration="1h"))
    assert [(one.field, one.in_place) for one in plan.changes] == [("inactivity_duration", True)]


async def test_a_run_goes_on_with_the_same_in_other_words(context: Context) -> None:
    older = wish(termination_idle_time="5m", pool_name="default", retry_policy=True)
    await submitting.submit(context, ADMIN, "main", older, None)
    later = wish(
        idle_duration="5m",
        fleets=["default"],
        retry={"duration": "1h"},
        spot_policy="on-demand",
        nodes=1,
        working_dir=".",
        startup_order="any",
    )
    assert (await planning.plan(context, ADMIN, "main", later)).changes == []
    after = await updating.update(context, ADMIN, "main", "one", later)
    assert after.spec["configuration"] == older.configuration


async def test_what_needs_a_new_start_is_refused_by_name_and_nothing_changes(context: Context) -> None:
    await submitting.submit(context, ADMIN, "main", wish(priority=1), None)
    with pytest.raises(InvalidRequestError, match="cannot continue with another `env`, `nodes`"):
        await updating.update(context, ADMIN, "main", "one", wish(priority=9, env={"A": "1"}, nodes=2))
    assert (await runs.get(context, ADMIN, "main", "one")).priority == 1


def test_values_that_may_be_secret_are_not_shown() -> None:
    (change,) = changes(Task(commands=["x"], env={"A": "s3cret"}), Task(commands=["x"], env={"A": "s3cret2", "B": "x"}))
    assert shown(change.field, change.old) == "A (values not shown)"
    assert shown(change.field, change.new) == "A, B (values not shown)"
    assert shown("registry_auth", {"username": "me", "password": "x"}) == "(not shown)"
    assert shown("nodes", 2) == "2" and shown("nodes", None) is None and shown("name", "x") == "x"


def test_change_of_a_range_is_shown_as_it_is_written() -> None:
    about: dict[str, Any] = {"commands": ["x"], "port": 8000}
    scaled = Service(**about, replicas="1..4", scaling={"metric": "rps", "target": 10, "window": 30})
    found = changes(Service(**about, replicas=2), scaled)
    assert [(one.field, shown(one.field, one.old), shown(one.field, one.new), one.in_place) for one in found] == [
        ("replicas", "2", "1..4", True),
        ("scaling", None, "rps 10, window 30s", True),
    ]
