"""The history of users, tokens, projects, members and secrets: who did what, and no value."""

from dstack.operations import history, people, projects, secrets
from dstack.operations.context import Context
from dstack.protocol.actions import Role
from dstack.protocol.requests import CreateToken
from dstack.store import users
from dstack.store.users import User

ADA = User("0-user", "ada", is_admin=True)


async def lines(context: Context, user: User, project: str) -> list[tuple[str, str]]:
    page = await history.list_events(context, user, project, run=None, after=0, limit=100)
    assert all(event.actor == "user ada" for event in page.events)
    return [(event.kind, event.message) for event in page.events]


async def change_everything(context: Context) -> str:
    """Change one thing after the other, and return the value of a token."""
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    await people.create(context, ADA, "bob", is_admin=False)
    await people.update(context, ADA, "bob", is_admin=True)
    await people.update(context, ADA, "bob", is_admin=False)
    token = await people.create_token(context, ADA, "bob", CreateToken(name="ci"))
    await projects.create(context, ADA, "vision", "key")
    await projects.create(context, ADA, "vision", "key")
    for role in (Role.USER, Role.MANAGER, Role.MANAGER):
        await projects.set_member(context, ADA, "vision", "bob", role)
    await secrets.set_value(context, ADA, "vision", "HF_TOKEN", "s3cret")
    await secrets.delete(context, ADA, "vision", "HF_TOKEN")
    return token.value or ""


async def test_changes_in_a_project_are_in_its_history_and_those_of_the_server_for_its_admins(
    context: Context,
) -> None:
    value = await change_everything(context)
    bob = await context.db.read(lambda tx: users.find_by_token(tx, value))
    assert bob is not None
    of_project = [
        ("project.created", "ada created the project vision"),
        ("member.set", "ada gave bob the role user"),
        ("member.set", "ada gave bob the role manager"),
        ("secret.set", "ada set the secret HF_TOKEN"),
        ("secret.deleted", "ada deleted the secret HF_TOKEN"),
    ]
    of_server = [
        ("user.added", "ada added the user bob"),
        ("user.changed", "ada made the user bob an admin"),
        ("user.changed", "ada made the user bob no admin any more"),
        ("token.created", "ada created the token ci of the user bob"),
    ]
    assert await lines(context, bob, "vision") == of_project
    assert await lines(context, ADA, "vision") == of_server + of_project
    assert await lines(context, ADA, "main") == of_server
    assert not any("s3cret" in text or value in text for _, text in await lines(context, ADA, "vision"))


async def test_deletions_are_in_the_history_of_the_server(context: Context) -> None:
    await change_everything(context)
    await projects.remove_member(context, ADA, "vision", "bob")
    assert (await lines(context, ADA, "vision"))[-1] == ("member.removed", "ada removed the member bob")
    await projects.delete(context, ADA, "vision")
    await people.delete_token(context, ADA, "bob", "ci")
    await people.delete(context, ADA, "bob")
    assert (await lines(context, ADA, "main"))[-3:] == [
        ("project.deleted", "ada deleted the project vision"),
        ("token.deleted", "ada deleted the token ci of the user bob"),
        ("user.deleted", "ada deleted the user bob"),
    ]
