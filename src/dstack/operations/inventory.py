"""Instances of a project."""

from dstack.operations.context import Action, Context, authorize
from dstack.operations.presenting_jobs import instance_view
from dstack.protocol.views import InstanceList
from dstack.store import objects
from dstack.store.tx import Tx
from dstack.store.users import User


async def instances(context: Context, user: User, project: str) -> InstanceList:
    """The machines that the project uses, or may use."""

    def read(tx: Tx) -> InstanceList:
        project_id = authorize(tx, user, project, Action.READ).project.id
        usable = [one for one in objects.live_instances(tx) if one.project_id in (None, project_id)]
        return InstanceList(instances=[instance_view(one) for one in usable])

    return await context.db.read(read)
