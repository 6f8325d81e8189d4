"""Projects and their members."""

import asyncio

from dstack.domain.roles import may_give
from dstack.errors import ForbiddenError, InvalidRequestError, ResourceExistsError, ResourceNotExistsError
from dstack.operations.context import (
    Action,
    Caller,
    Context,
    authorize,
    authorize_on_server,
    creation_id,
    record_change,
)
from dstack.operations.people import check_name, find_account
from dstack.protocol.accounts import MemberList, MemberView, ProjectList, ProjectView
from dstack.protocol.actions import Role
from dstack.store import backends, commits, objects, users
from dstack.store.tx import Tx
from dstack.store.users import Project, User

RUNS_AT_ONCE = 50
"""The runs that one transaction deletes."""
PROJECTS_MAX = 500
"""The most projects in which one user has the role `admin`. The creator of a project has it."""
MEMBERS_MAX = 1_000
"""The most members of one project."""


async def list_all(context: Context, user: User) -> ProjectList:
    """Return the projects that the user may use."""

    def read(tx: Tx) -> ProjectList:
        found = users.projects_of(tx, authorize_on_server(tx, user, Action.READ_ACCOUNT))
        return ProjectList(projects=[ProjectView(name=name, role=role) for name, role in found])

    return await context.db.read(read)


async def create(context: Context, user: User, name: str, key: str | None = None) -> ProjectView:
    """Create a project; the caller becomes its admin. A repeated request returns the project again.

    Args:
        key: the idempotency key.

    Raises:
        InvalidRequestError: the name is malformed, or the caller has too many projects.
        ResourceExistsError: there is a project of that name.
    """
    check_name(name, "project")
    project_id = creation_id(context, user, key, "project", name)

    def write(tx: Tx) -> ProjectView:
        authorize_on_server(tx, user, Action.CREATE_PROJECTS)
        known = users.find_membership(tx, name, user.id)
        if known is None:
            _check_number_of_projects(tx, user)
            users.add_project(tx, project_id, name, user.id)
            record_change(tx, user, "project.created", f"created the project {name}", Project(project_id, name))
        elif known[0].id != project_id:
            raise ResourceExistsError(f"There is a project `{name}` already", hint="Choose another name")
        return ProjectView(name=name, role=Role.ADMIN.value)

    return await context.db.write(write)


async def delete(context: Context, user: User, project: str) -> None:
    """Delete a project with its runs, logs, secrets and members.

    Raises:
        InvalidRequestError: a run of the project has not finished, or a machine is its own.
    """
    found = await context.db.read(lambda tx: authorize(tx, user, project, Action.DELETE_PROJECT).project)
    while (deleted := await context.db.write(lambda tx: _deleted_runs(tx, user, found))) is not None:
        for job_id in deleted:
            await asyncio.to_thread(context.logs.delete, job_id)


def _deleted_runs(tx: Tx, user: User, project: Project) -> list[str] | None:
    """Delete some runs and return the ids of their jobs; with no run left, delete the project and return None."""
    known = users.find_membership(tx, project.name, user.id)
    if known is None or known[0] != project:
        return None  # another request has deleted it; a new project may have its name
    authorize(tx, user, project.name, Action.DELETE_PROJECT)
    if active := objects.unfinished_names(tx, project_id=project.id):
        raise InvalidRequestError(
            f"The run `{active[0]}` of the project `{project.name}` has not finished",
            hint=f"Stop the project's runs first: `dstack stop {active[0]} --project {project.name}`",
        )
    if any(one.project_id == project.id for one in objects.live_instances(tx)):
        raise InvalidRequestError(
            f"The project `{project.name}` has machines that have not ended", hint="Wait until `dstack pool` shows none"
        )
    if own := [one.name for one in backends.usable_by(tx, project.id) if one.project_id is not None]:
        raise InvalidRequestError(
            f"The project `{project.name}` has the backend `{own[0]}`",
            hint=f"Delete it first: `dstack backend delete {own[0]} --project {project.name}`",
        )
    if finished := objects.run_ids_of(tx, project.id, limit=RUNS_AT_ONCE):
        return [job_id for run_id in finished for job_id in commits.delete_run(tx, run_id)]
    users.delete_project(tx, project.id)
    record_change(tx, user, "project.deleted", f"deleted the project {project.name}")
    return None


async def list_members(context: Context, user: User, project: str) -> MemberList:
    """Return the members of a project."""

    def read(tx: Tx) -> MemberList:
        project_id = authorize(tx, user, project, Action.READ).project.id
        found = users.list_members(tx, project_id)
        return MemberList(members=[MemberView(user=name, role=role) for name, role in found])

    return await context.db.read(read)


async def set_member(context: Context, user: User, project: str, name: str, role: Role) -> MemberView:
    """Add a member, or change a member's role.

    Raises:
        ForbiddenError: the caller's own role is lower than the one to give or to take.
        InvalidRequestError: the project would have no admin, or has too many members.
        ResourceNotExistsError: there is no such user.
    """

    def write(tx: Tx) -> MemberView:
        caller = authorize(tx, user, project, Action.MANAGE_MEMBERS)
        _check_gift(caller, role)
        if (former := _role_of(tx, caller, name)) is not None:
            _check_gift(caller, former)
            if former is Role.ADMIN and role is not Role.ADMIN:
                _check_other_admin(tx, caller, name)
        else:
            _check_number_of_members(tx, caller)
        users.put_member(tx, caller.project.id, find_account(tx, name).id, role.value)
        if role is not former:
            record_change(tx, user, "member.set", f"gave {name} the role {role}", caller.project)
        return MemberView(user=name, role=role.value)

    return await context.db.write(write)


async def remove_member(context: Context, user: User, project: str, name: str) -> None:
    """Remove a member. Active runs of that user go on.

    Raises:
        ForbiddenError: the caller's own role is lower than the one to take.
        InvalidRequestError: the project would have no admin.
        ResourceNotExistsError: the project has no such member.
    """

    def write(tx: Tx) -> None:
        caller = authorize(tx, user, project, Action.MANAGE_MEMBERS)
        role = _role_of(tx, caller, name)
        if role is None:
            raise ResourceNotExistsError(
                f"`{name}` is not a member of the project `{project}`", hint="`dstack project members` shows all"
            )
        _check_gift(caller, role)
        if role is Role.ADMIN:
            _check_other_admin(tx, caller, name)
        users.remove_member(tx, caller.project.id, find_account(tx, name).id)
        record_change(tx, user, "member.removed", f"removed the member {name}", caller.project)

    await context.db.write(write)


def _check_number_of_projects(tx: Tx, user: User) -> None:
    if (count := users.count_administered(tx, user.id)) >= PROJECTS_MAX:
        raise InvalidRequestError(
            f"You are an admin of {count} projects, and at most {PROJECTS_MAX} are possible",
            hint="Delete some with `dstack project delete`, or leave them to other admins",
        )


def _check_number_of_members(tx: Tx, caller: Caller) -> None:
    if (count := len(users.list_members(tx, caller.project.id))) >= MEMBERS_MAX:
        raise InvalidRequestError(
            f"The project `{caller.project.name}` has {count} members, and at most {MEMBERS_MAX} are possible",
            hint="Remove members with `dstack project remove-member`, or create another project",
        )


def _check_gift(caller: Caller, role: Role) -> None:
    if not may_give(caller.role, role):
        raise ForbiddenError(
            f"A `{caller.role}` of the project can neither give nor take the role `{role}`",
            hint="Ask an admin of the project",
        )


def _role_of(tx: Tx, caller: Caller, name: str) -> Role | None:
    role = dict(users.list_members(tx, caller.project.id)).get(name)
    return None if role is None else Role(role)


def _check_other_admin(tx: Tx, caller: Caller, name: str) -> None:
    members = users.list_members(tx, caller.project.id)
    if not any(role == Role.ADMIN and one != name for one, role in members):
        raise InvalidRequestError(
            f"`{name}` is the only admin of the project `{caller.project.name}`",
            hint="Make another member an admin first",
        )
