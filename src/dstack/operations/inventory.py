"""Projects, backends, and instances."""

from dstack.operations.context import Context, caller_in
from dstack.operations.presenting import instance_view
from dstack.protocol.views import BackendList, BackendView, InstanceList, ProjectList, ProjectView
from dstack.store import objects, users
from dstack.store.tx import Tx
from dstack.store.users import User


async def projects(context: Context, user: User) -> ProjectList:
    """The projects that the user may use."""
    found = await context.db.read(lambda tx: users.projects_of(tx, user))
    return ProjectList(projects=[ProjectView(name=name, role=role) for name, role in found])


async def backends(context: Context, user: User, project: str) -> BackendList:
    """Return the backends of a project."""
    await context.db.read(lambda tx: caller_in(tx, user, project))
    silent = context.catalog.silent
    return BackendList(backends=[BackendView(name=name, silent=name in silent) for name in context.backends])


async def instances(context: Context, user: User, project: str) -> InstanceList:
    """The machines that the project uses, or may use."""

    def read(tx: Tx) -> InstanceList:
        project_id = caller_in(tx, user, project).project.id
        usable = [one for one in objects.live_instances(tx) if one.project_id in (None, project_id)]
        return InstanceList(instances=[instance_view(one) for one in usable])

    return await context.db.read(read)
