"""Change a run while it goes on, as far as that can be."""

from dataclasses import replace

from dstack.domain.births import stop_grace_of
from dstack.domain.objects import Run
from dstack.domain.updates import Change, shown
from dstack.errors import InvalidRequestError
from dstack.operations.context import Action, Context
from dstack.operations.presenting import brief_view
from dstack.operations.runs import get_run
from dstack.operations.wishes import Wish, changes_of, understand
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import ChangeView, RunView
from dstack.store import commits, events, objects, queue, wakes
from dstack.store.tx import Tx
from dstack.store.users import User


async def update(context: Context, user: User, project: str, name_or_id: str, request: SubmitRun) -> RunView:
    """Give an unfinished run another configuration.

    Raises:
        InvalidRequestError: the run has ended, or a change needs a new start; names which.
    """
    wish = await understand(request)

    def write(tx: Tx) -> RunView:
        run = get_run(tx, user, project, name_or_id, Action.RUN)
        if run.status.is_finished():
            raise InvalidRequestError(f"The run `{run.name}` has ended: it is {run.status}", hint="Submit it again")
        needed = [change for change in changes_of(run, wish) if not change.in_place]
        if needed:
            fields = ", ".join(f"`{change.field}`" for change in needed)
            raise InvalidRequestError(
                f"The run `{run.name}` cannot continue with another {fields}", hint="Stop it and submit it again"
            )
        if changes_of(run, wish):
            _change(tx, run, wish, user)
        return brief_view(tx, get_run(tx, user, project, run.id, Action.RUN))

    return await context.db.write(write)


def change_view(change: Change) -> ChangeView:
    """One change as the API shows it."""
    old, new = shown(change.field, change.old), shown(change.field, change.new)
    return ChangeView(field=change.field, old=old, new=new, in_place=change.in_place)


def _change(tx: Tx, run: Run, wish: Wish, user: User) -> None:
    configuration = wish.configuration
    spec = {**run.spec, "configuration": dict(wish.request.configuration)}
    updated = commits.revise(tx, replace(run, priority=configuration.priority), spec, user_id=user.id)
    if configuration.priority != run.priority:
        wakes.add(tx, "scheduler", "placement")
    for job in objects.jobs_of_run(tx, run.id):
        queue.forget(tx, job)
        queue.update(tx, job)
        if not job.status.is_finished():
            commits.record(tx, replace(job, stop_grace_s=stop_grace_of(configuration)))
    fields = ", ".join(change.field for change in changes_of(run, wish))
    message = f"{user.name} changed {fields} of {run.name}"
    events.add(tx, updated, actor=f"user {user.name}", kind="run.updated", message=message)
