"""Look at, stop and delete runs."""

import asyncio
from dataclasses import replace

from dstack.domain.objects import Run
from dstack.errors import (
    InvalidRequestError,
    ResourceNotExistsError,
)
from dstack.operations.context import Action, Caller, Context, authorize
from dstack.operations.presenting import brief_view, run_view, run_views
from dstack.protocol.statuses import JobReason
from dstack.protocol.views import RunPage, RunView
from dstack.store import commits, events, objects
from dstack.store.tx import Tx
from dstack.store.users import User


async def get(context: Context, user: User, project: str, name_or_id: str) -> RunView:
    """One run: the latest of that name, or the one with that id."""

    def read(tx: Tx) -> RunView:
        return run_view(tx, get_run(tx, user, project, name_or_id, Action.READ), context.why_waiting)

    return await context.db.read(read)


def get_run(tx: Tx, user: User, project: str, name_or_id: str, action: Action) -> Run:
    """Return the run on record, for an action that the caller is allowed to do.

    Raises:
        ResourceNotExistsError: the project has no such run.
    """
    return run_of(tx, authorize(tx, user, project, action), name_or_id)


def run_of(tx: Tx, caller: Caller, name_or_id: str) -> Run:
    """Return a run of the caller's project.

    Raises:
        ResourceNotExistsError: the project has no such run.
    """
    run = objects.find_run_by(tx, caller.project.id, name_or_id)
    if run is None:
        raise ResourceNotExistsError(
            f"There is no run `{name_or_id}` in the project `{caller.project.name}`",
            hint="`dstack ps -a` shows all runs",
        )
    return run


async def list_page(
    context: Context, user: User, project: str, *, finished_too: bool, limit: int, before: str | None
) -> RunPage:
    """Some runs, newest first; without `finished_too` the unfinished ones, or the last one where all have ended."""

    def read(tx: Tx) -> RunPage:
        project_id = authorize(tx, user, project, Action.READ).project.id
        runs, following = objects.list_runs(tx, project_id, unfinished=not finished_too, before=before, limit=limit)
        if not runs and following is None and not finished_too and before is None:
            runs, following = objects.list_runs(tx, project_id, limit=1)[0], None
        return RunPage(runs=run_views(tx, runs, context.why_waiting), next=following)

    return await context.db.read(read)


async def stop(context: Context, user: User, project: str, name_or_id: str, *, abort: bool) -> RunView:
    """Record the request to end a run, which the engine then performs. A run that has ended stays as it is."""

    def write(tx: Tx) -> RunView:
        run = get_run(tx, user, project, name_or_id, Action.RUN)
        wish = JobReason.ABORTED_BY_USER if abort else JobReason.STOPPED_BY_USER
        weaker = run.stop_asked is JobReason.ABORTED_BY_USER or run.stop_asked is wish
        if not run.status.is_finished() and not weaker:
            asked = replace(run, stop_asked=wish)
            commits.record(tx, asked)
            word = "abort" if abort else "stop"
            message = f"{user.name} asked to {word} {run.name}"
            events.add(tx, asked, actor=f"user {user.name}", kind="run.stop_asked", message=message)
        return brief_view(tx, get_run(tx, user, project, run.id, Action.RUN))

    return await context.db.write(write)


async def delete(context: Context, user: User, project: str, name_or_id: str) -> None:
    """Forget a finished run, its events and its logs.

    Raises:
        InvalidRequestError: it has not ended.
    """

    def write(tx: Tx) -> list[str]:
        run = get_run(tx, user, project, name_or_id, Action.RUN)
        if not run.status.is_finished():
            raise InvalidRequestError(f"The run `{run.name}` is {run.status}", hint=f"First: `dstack stop {run.name}`")
        return commits.delete_run(tx, run.id)

    for job_id in await context.db.write(write):
        await asyncio.to_thread(context.logs.delete, job_id)
