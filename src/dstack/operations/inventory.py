"""Backends and instances of a project."""

from dstack.operations.context import Action, Context, authorize
from dstack.operations.presenting import instance_view
from dstack.protocol.views import BackendList, BackendView, InstanceList
from dstack.store import objects
from dstack.store.tx import Tx
from dstack.store.users import User


async def backends(context: Context, user: User, project: str) -> BackendList:
    """Return the backends of a project."""
    await context.db.read(lambda tx: authorize(tx, user, project, Action.READ))
    silent = context.catalog.silent
    offered = [name for name in context.backends if name not in context.catalog.hidden]
    return BackendList(backends=[BackendView(name=name, silent=name in silent) for name in offered])


async def instances(context: Context, user: User, project: str) -> InstanceList:
    """The machines that the project uses, or may use."""

    def read(tx: Tx) -> InstanceList:
        project_id = authorize(tx, user, project, Action.READ).project.id
        usable = [one for one in objects.live_instances(tx) if one.project_id in (None, project_id)]
        return InstanceList(instances=[instance_view(one) for one in usable])

    return await context.db.read(read)
