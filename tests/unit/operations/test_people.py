"""Users, tokens, projects and members, beyond what `tests/unit/server/test_roles.py` walks through."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from dstack.domain.market import EMPTY, Market
from dstack.domain.objects import Next
from dstack.engine.lifecycles import check_move
from dstack.errors import ForbiddenError, InvalidRequestError, NoCapacityError, ResourceNotExistsError
from dstack.operations import people, projects, runs, secrets, submitting
from dstack.operations.context import Context
from dstack.protocol.actions import Role
from dstack.protocol.agent import Point
from dstack.protocol.requests import CreateToken, SubmitRun
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.store import commits, metrics, objects, tables, users
from dstack.store import secrets as stored
from dstack.store.tx import Tx
from dstack.store.users import User
from tests.making import NOW, HandClock, instance, job, run

ADA = User("0-user", "ada", is_admin=True)
TASK = SubmitRun(configuration={"type": "task", "commands": ["true"]})


async def caller(context: Context, name: str, lasts_s: int | None = None) -> User:
    """Return a user as the edge knows it by a new token."""
    token = await people.create_token(context, ADA, name, CreateToken(name="t", expires_in_s=lasts_s))
    found = await context.db.read(lambda tx: users.find_by_token(tx, token.value or ""))
    assert found is not None
    return found


async def test_token_is_refused_once_it_has_expired(context: Context, clock: HandClock) -> None:
    await people.create(context, ADA, "bob", is_admin=False)
    bob = await caller(context, "bob", lasts_s=60)
    assert (await people.me(context, bob)).name == "bob"
    clock.time += timedelta(seconds=61)
    with pytest.raises(Exception, match="was deleted or has expired"):
        await people.me(context, bob)


async def test_admin_without_rights_any_more_is_refused_though_the_edge_remembers_them(context: Context) -> None:
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    await people.create(context, ADA, "bob", is_admin=True)
    bob = await caller(context, "bob")
    assert await people.list_all(context, bob)
    await people.update(context, ADA, "bob", is_admin=False)
    assert bob.is_admin
    with pytest.raises(ForbiddenError):
        await people.list_all(context, bob)
    with pytest.raises(ResourceNotExistsError):
        await runs.list_page(context, bob, "main", finished_too=True, limit=1, before=None)


async def test_servers_own_token_is_not_deleted_since_the_next_start_would_restore_it(context: Context) -> None:
    def start(tx: Tx) -> None:
        users.set_admin(tx, "0-user", is_admin=True)
        users.add_user(tx, "1-user", users.FIRST_ADMIN, is_admin=True)
        users.add_token(tx, "1-token", "1-user", users.SERVER_TOKEN, "value", None)

    await context.db.write(start)
    with pytest.raises(InvalidRequestError, match="`server` is the server's own") as refused:
        await people.delete_token(context, ADA, users.FIRST_ADMIN, users.SERVER_TOKEN)
    assert "`dstack server --token`" in (refused.value.hint or "")
    await people.create_token(context, ADA, "ada", CreateToken(name="server"))
    await people.delete_token(context, ADA, "ada", "server")


async def test_list_of_projects_has_the_roles_of_now(context: Context) -> None:
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    await people.create(context, ADA, "bob", is_admin=False)
    await projects.set_member(context, ADA, "main", "bob", Role.USER)
    bob = await caller(context, "bob")

    async def roles() -> dict[str, str]:
        return {one.name: one.role for one in (await projects.list_all(context, bob)).projects}

    await projects.create(context, ADA, "vision")
    await people.update(context, ADA, "bob", is_admin=True)
    assert await roles() == {"main": "admin", "vision": "admin"}, "an admin of the server has all rights everywhere"
    bob = replace(bob, is_admin=True)
    await people.update(context, ADA, "bob", is_admin=False)
    assert await roles() == {"main": "user"}, "though the edge remembers an admin"


async def test_deleted_user_comes_back_without_former_rights(context: Context) -> None:
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    await people.create(context, ADA, "bob", is_admin=False)
    await projects.set_member(context, ADA, "main", "bob", Role.ADMIN)
    bob = await caller(context, "bob")
    await people.delete(context, ADA, "bob")
    with pytest.raises(Exception, match="was deleted or has expired"):
        await people.me(context, bob)
    assert [one.name for one in (await people.list_all(context, ADA)).users] == ["ada"]
    await people.create(context, ADA, "bob", is_admin=False)
    assert (await people.list_tokens(context, ADA, "bob")).tokens == []
    assert (await projects.list_members(context, ADA, "main")).members == []


async def test_user_with_an_active_run_is_not_deleted(context: Context) -> None:
    def begin(tx: Tx) -> None:
        users.set_admin(tx, "0-user", is_admin=True)
        users.add_user(tx, "1-user", "bob", is_admin=False)
        commits.add_run(tx, run(user_id="1-user"), [job(version=0)], actor="user bob")

    await context.db.write(begin)
    with pytest.raises(InvalidRequestError, match="1 runs of the user `bob` have not finished, such as `hello`"):
        await people.delete(context, ADA, "bob")


async def test_machine_of_the_server_is_offered_to_one_user_alone_by_default(context: Context) -> None:
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    by_default = replace(context, is_local_by_default=True)
    await people.create(context, ADA, "by-setting", is_admin=False)
    assert context.catalog.hidden == set(), "a setting offers it"
    await people.create(by_default, ADA, "bob", is_admin=False)
    assert by_default.catalog.hidden == {"local"}
    assert "several users (see `DSTACK_LOCAL_BACKEND`)" in by_default.catalog.absent()["local"]
    for name in ("bob", "by-setting"):
        await people.delete(by_default, ADA, name)
    assert by_default.catalog.hidden == set()


async def test_queued_runs_get_another_look_when_the_machine_is_hidden_or_offered_again(context: Context) -> None:
    def take_wakes(tx: Tx) -> list[str]:
        kinds = [row.kind for row in tx.select(select(tables.wakes))]
        tx.change(delete(tables.wakes))
        return kinds

    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    by_default = replace(context, is_local_by_default=True)
    await people.create(by_default, ADA, "bob", is_admin=False)
    assert await context.db.write(take_wakes) == ["scheduler"]
    await people.create(by_default, ADA, "eve", is_admin=False)
    await people.delete(by_default, ADA, "eve")
    assert await context.db.write(take_wakes) == [], "nothing has changed"
    await people.delete(by_default, ADA, "bob")
    assert await context.db.write(take_wakes) == ["scheduler"]


async def test_refused_submit_names_the_machine_that_is_not_used(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_offers() -> Market:
        return EMPTY

    monkeypatch.setattr(context.catalog, "market", no_offers)
    context.catalog.hide("local")
    with pytest.raises(NoCapacityError, match="local: the server's own machine is not used, since the server has"):
        await submitting.submit(context, ADA, "main", TASK, None)


async def test_project_is_deleted_with_all_that_it_has(context: Context) -> None:
    await projects.create(context, ADA, "vision")
    await secrets.set_value(context, ADA, "vision", "A", "a")
    project_id = await context.db.read(lambda tx: (users.find_membership(tx, "vision", "0-user") or [None])[0])
    assert project_id is not None

    def begin(tx: Tx) -> None:
        done = run(id="2-run", project_id=project_id.id, status=RunStatus.DONE, finished_at=NOW)
        ended = job(id="2-job", run_id="2-run", project_id=project_id.id, status=JobStatus.DONE, finished_at=NOW)
        commits.add_run(tx, done, [ended], actor="user ada")

    await context.db.write(begin)
    context.logs.append("2-job", "job", 0, 1.0, b"hello")
    await projects.delete(context, ADA, "vision")
    assert await context.db.read(lambda tx: objects.find_run(tx, "2-run")) is None
    assert context.logs.size("2-job", "job") == 0
    with pytest.raises(ResourceNotExistsError):
        await secrets.list_all(context, ADA, "vision")
    assert (await projects.create(context, ADA, "vision")).role == "admin"


@pytest.mark.parametrize("status", ["done", "of a later version"])
async def test_project_is_deleted_with_every_row_that_refers_to_it(context: Context, status: str) -> None:
    def begin(tx: Tx) -> None:
        users.set_admin(tx, "0-user", is_admin=True)
        machine = instance(id="1-instance", project_id="0-project", version=0)
        commits.commit(tx, Next((machine,)), check_move)
        done = run(status=RunStatus.DONE, finished_at=NOW)
        ended = job(version=0, status=JobStatus.DONE, finished_at=NOW, instance_id="1-instance")
        commits.add_run(tx, done, [ended], actor="user ada")
        metrics.add(tx, {ended.id: [Point(NOW.timestamp(), 0.5, 1.0, ())]}, {ended.id: metrics.KEEP})
        stored.put_secret(tx, "0-project", "A", "sealed")
        stored.put_repo(tx, "0-project", "0-user", stored.Repo("r", "remote", "https://host/r", None))
        tx.change(update(tables.runs).values(status=status))

    def end_machine(tx: Tx) -> None:
        tx.change(update(tables.instances).values(finished_at=NOW))
        tx.known.clear()
        tx.lists.clear()

    await context.db.write(begin)
    with pytest.raises(InvalidRequestError, match="has machines that have not ended"):
        await projects.delete(context, ADA, "main")
    await context.db.write(end_machine)
    await projects.delete(context, ADA, "main")
    for table in (tables.runs, tables.jobs, tables.metrics, tables.secrets, tables.repos, tables.projects):
        assert await context.db.read(lambda tx: tx.select(select(table)).all()) == [], table  # noqa: B023
    assert await context.db.read(lambda tx: tx.select(select(tables.instances.c.project_id)).scalar_one()) is None


async def test_project_is_deleted_with_runs_that_never_had_a_job(context: Context) -> None:
    def begin(tx: Tx) -> None:
        users.set_admin(tx, "0-user", is_admin=True)
        commits.add_run(tx, run(status=RunStatus.TERMINATED, finished_at=NOW), (), actor="user ada")

    await context.db.write(begin)
    await projects.delete(context, ADA, "main")
    assert (await projects.list_all(context, ADA)).projects == []


@pytest.mark.parametrize("names", [[], ["main"]], ids=["deleted", "created anew"])
async def test_deletion_in_progress_ends_well_when_another_request_has_done_it(
    context: Context, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    def begin(tx: Tx) -> None:
        users.set_admin(tx, "0-user", is_admin=True)
        done = run(status=RunStatus.DONE, finished_at=NOW)
        commits.add_run(tx, done, [job(version=0, status=JobStatus.DONE, finished_at=NOW)], actor="user ada")

    def meanwhile(job_id: str) -> None:
        asyncio.run_coroutine_threadsafe(repeat(), loop).result()

    async def repeat() -> None:
        await projects.delete(context, ADA, "main")
        for name in names:
            await projects.create(context, ADA, name)

    loop = asyncio.get_running_loop()
    await context.db.write(begin)
    monkeypatch.setattr(context.logs, "delete", meanwhile)
    await projects.delete(context, ADA, "main")
    assert [one.name for one in (await projects.list_all(context, ADA)).projects] == names


async def test_project_with_an_active_run_is_not_deleted(context: Context) -> None:
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    await context.db.write(lambda tx: commits.add_run(tx, run(), [job(version=0)], actor="user ada"))
    with pytest.raises(InvalidRequestError, match="`hello` of the project `main` has not finished"):
        await projects.delete(context, ADA, "main")


@pytest.mark.parametrize("name", ["", "Ada", "a b", "-a", "a-", "me", "a" * 61, "ä"])
async def test_malformed_names_are_refused_with_the_rule(context: Context, name: str) -> None:
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    with pytest.raises(InvalidRequestError, match="1 to 60 lower-case letters"):
        await people.create(context, ADA, name, is_admin=False)
