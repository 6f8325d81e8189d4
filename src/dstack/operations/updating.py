"""Change a run while it goes on, as far as that can be."""

from dstack.domain.specs import demand_of
from dstack.errors import InvalidRequestError
from dstack.operations.context import Action, Context, authorize
from dstack.operations.presenting import brief_view
from dstack.operations.refusals import on_sale
from dstack.operations.revising import revise
from dstack.operations.runs import get_run, run_of
from dstack.operations.wishes import understand
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import RunView
from dstack.store.tx import Tx
from dstack.store.users import User


async def update(
    context: Context, user: User, project: str, name_or_id: str, request: SubmitRun, *, force: bool = False
) -> RunView:
    """Give an unfinished run another configuration.

    Args:
        request: the run as it is to be. Without a `repo` its files stay as they are.
        force: whether a service's replicas are replaced at once, and not one by one.

    Raises:
        InvalidRequestError: the run has ended, or a change needs a new start; names which.
        NoCapacityError: no available machine will ever fit a service's new replicas.
    """
    wish = await understand(request)
    is_service = wish.configuration.type == "service"
    sale = await on_sale(context, user, project, demand_of(wish.configuration)) if is_service else None

    def write(tx: Tx) -> RunView:
        caller = authorize(tx, user, project, Action.RUN)
        run = run_of(tx, caller, name_or_id)
        if run.status.is_finished():
            raise InvalidRequestError(f"The run `{run.name}` has ended: it is {run.status}", hint="Submit it again")
        revise(tx, caller, run, wish, sale, force=force)
        return brief_view(tx, get_run(tx, user, project, run.id, Action.RUN))

    return await context.db.write(write)
