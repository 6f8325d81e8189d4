"""The bounds of users, tokens, projects and members: each refusal has the number and the way out."""

import pytest

from dstack.errors import InvalidRequestError
from dstack.operations import people, projects
from dstack.operations.context import Context
from dstack.protocol.actions import Role
from dstack.protocol.requests import CreateToken
from dstack.store import users
from dstack.store.users import User

ADA = User("0-user", "ada", is_admin=True)


@pytest.fixture(autouse=True)
async def _of_two(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a bound of two everywhere."""
    for module, name in (
        (people, "USERS_MAX"),
        (people, "TOKENS_MAX"),
        (projects, "PROJECTS_MAX"),
        (projects, "MEMBERS_MAX"),
    ):
        monkeypatch.setattr(module, name, 2)
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    await people.create(context, ADA, "bob", is_admin=False, key="bob")


async def test_server_with_all_possible_users_takes_one_after_a_deletion(context: Context) -> None:
    with pytest.raises(InvalidRequestError, match="has 2 users, and at most 2 are possible") as refused:
        await people.create(context, ADA, "eve", is_admin=False)
    assert "`dstack user delete`" in (refused.value.hint or "")
    await people.create(context, ADA, "bob", is_admin=False, key="bob")
    await people.delete(context, ADA, "bob")
    await people.create(context, ADA, "eve", is_admin=False)


async def test_user_with_all_possible_tokens_gets_no_other(context: Context) -> None:
    for name in ("a", "b"):
        await people.create_token(context, ADA, "bob", CreateToken(name=name), name)
    with pytest.raises(InvalidRequestError, match="`bob` has 2 tokens, and at most 2") as refused:
        await people.create_token(context, ADA, "bob", CreateToken(name="c"))
    assert "`dstack user delete-token`" in (refused.value.hint or "")
    await people.create_token(context, ADA, "bob", CreateToken(name="b"), "b")


async def test_admin_of_all_possible_projects_creates_no_other(context: Context) -> None:
    for name in ("a", "b"):
        await projects.create(context, ADA, name, name)
    with pytest.raises(InvalidRequestError, match="an admin of 2 projects, and at most 2") as refused:
        await projects.create(context, ADA, "c")
    assert "`dstack project delete`" in (refused.value.hint or "")
    await projects.create(context, ADA, "b", "b")
    await projects.delete(context, ADA, "a")
    await projects.create(context, ADA, "c")


async def test_project_with_all_possible_members_changes_roles_and_takes_no_other(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "USERS_MAX", 3)
    await people.create(context, ADA, "eve", is_admin=False)
    await projects.create(context, ADA, "vision")
    await projects.set_member(context, ADA, "vision", "bob", Role.USER)
    with pytest.raises(InvalidRequestError, match="`vision` has 2 members, and at most 2") as refused:
        await projects.set_member(context, ADA, "vision", "eve", Role.USER)
    assert "`dstack project remove-member`" in (refused.value.hint or "")
    await projects.set_member(context, ADA, "vision", "bob", Role.MANAGER)
