"""Plan, submit, look at, stop and delete runs."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dstack.domain.objects import Job, Run
from dstack.domain.offers import Demand, Offer, describe, misfits
from dstack.domain.placement import can_ever_place
from dstack.domain.specs import STOP_GRACE_S, demand_of
from dstack.errors import (
    ConfigurationError,
    InvalidRequestError,
    NoCapacityError,
    ResourceExistsError,
    ResourceNotExistsError,
)
from dstack.operations.context import Caller, Context, caller_in
from dstack.operations.presenting import brief_view, run_view, run_views
from dstack.protocol.requests import SubmitRun
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from dstack.protocol.views import RunPage, RunView
from dstack.spec.names import check_name, random_name
from dstack.spec.parse import RunConfiguration, configuration_of
from dstack.store import commits, events, objects
from dstack.store.tx import Tx
from dstack.store.users import User

CONFIGURATION_BYTES_MAX = 512 << 10
"""As JSON; what an agent is told of a job must fit into one line of its connection (`protocol.frames`)."""

OFFERS_SHOWN_MAX = 50
NAME_TRIES = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """A submit, understood: the configuration as an object, and what it asks of a machine."""

    request: SubmitRun
    configuration: RunConfiguration
    demand: Demand

    @property
    def name(self) -> str | None:
        return self.request.run_name or self.configuration.name


def understand(request: SubmitRun) -> Wish:
    """What a request asks for.

    Raises:
        InvalidRequestError: the configuration or the name cannot work.
    """
    size = len(json.dumps(request.configuration))
    if size > CONFIGURATION_BYTES_MAX:
        raise InvalidRequestError(
            f"The configuration has {size} bytes, and at most {CONFIGURATION_BYTES_MAX} are taken",
            hint="Put what is long into files of the run's folder",
        )
    try:
        configuration = configuration_of(request.configuration)
        wish = Wish(request, configuration, demand_of(configuration))
        if wish.name is not None:
            check_name(wish.name)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message, hint=error.hint) from error
    return wish


def refusals_of(demand: Demand, offers: Sequence[Offer]) -> list[str]:
    """Why each offer that does not fit does not, and what it is."""
    refusals = []
    for offer in offers:
        if reasons := list(misfits(demand, offer)):
            what = f"{offer.backend} {offer.instance_type} ({describe(offer.resources)})"
            refusals.append(f"{what}: {'; '.join(reasons)}")
    return refusals[:OFFERS_SHOWN_MAX]


async def submit(context: Context, user: User, project: str, request: SubmitRun, key: str | None) -> RunView:
    """Accept a run: it exists, is queued and has been announced once this returns.

    Args:
        key: the idempotency key; the same key gives the same run.

    Raises:
        InvalidRequestError: the configuration or the name cannot work.
        NoCapacityError: no machine that can be had will ever fit; says what each lacks.
        ResourceExistsError: an active run has this name.
    """
    wish = understand(request)
    offers = await context.catalog.offers()
    if all(next(misfits(wish.demand, offer), None) is not None for offer in offers):
        silent = [f"the backend {name} does not answer just now" for name in sorted(context.catalog.silent)]
        reasons = "; ".join(refusals_of(wish.demand, offers) + silent) or "no backend offers anything"
        raise NoCapacityError(f"No machine fits: {reasons}", hint="Ask for less, or add a backend that has it")
    # A commit whose answer was lost is done again: without a key it would be a second run.
    key = key or context.ids.new_id()
    return await context.db.write(lambda tx: _submit(tx, context, caller_in(tx, user, project), wish, offers, key))


def _submit(tx: Tx, context: Context, caller: Caller, wish: Wish, offers: Sequence[Offer], key: str) -> RunView:
    scoped = f"{caller.project.id}/{key}"
    if (known := objects.find_run_by_key(tx, scoped)) is not None:
        return brief_view(tx, known)
    run = born(tx, context, caller, wish, _claim_name(tx, context, caller, wish.name), scoped)
    jobs = jobs_of(run, context, wish)
    if not can_ever_place(jobs, offers):
        raise NoCapacityError(
            f"No backend has the machines for {len(jobs)} nodes at once",
            hint="Ask for fewer or smaller nodes, or add a backend that has more machines",
        )
    commits.add_run(tx, run, jobs, actor=f"user {caller.user.name}")
    return brief_view(tx, run)


def _claim_name(tx: Tx, context: Context, caller: Caller, name: str | None) -> str:
    if name is None:
        for _ in range(NAME_TRIES):
            name = random_name(context.ids.random())
            if objects.find_run_by(tx, caller.project.id, name) is None:
                return name
        raise ResourceExistsError("No free random name was found", hint="Give the run a name")
    holder = objects.find_run_by(tx, caller.project.id, name)
    if holder is not None and not holder.status.is_finished():
        raise ResourceExistsError(
            f"The run `{name}` is still {holder.status}", hint=f"Stop it with `dstack stop {name}`, or use another name"
        )
    return name


def born(tx: Tx, context: Context, caller: Caller, wish: Wish, name: str, key: str | None) -> Run:
    """The run as it begins, written nowhere yet."""
    now = tx.clock.now()
    return Run(
        id=context.ids.new_id(),
        project_id=caller.project.id,
        user_id=caller.user.id,
        name=name,
        type=wish.configuration.type,
        status=RunStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        spec={**wish.request.model_dump(mode="json"), "run_name": name},
        priority=wish.configuration.priority,
        idempotency_key=key,
        version=1,
    )


def jobs_of(run: Run, context: Context, wish: Wish) -> list[Job]:
    """The first attempts of its jobs, written nowhere yet."""
    stop_duration = wish.configuration.stop_duration
    return [
        Job(
            id=context.ids.new_id(),
            run_id=run.id,
            project_id=run.project_id,
            replica=node.replica,
            node=node.node,
            nodes=node.nodes,
            attempt=1,
            status=JobStatus.SUBMITTED,
            status_since=run.submitted_at,
            submitted_at=run.submitted_at,
            demand=wish.demand,
            stop_grace_s=STOP_GRACE_S if stop_duration is None else float(stop_duration),
            max_duration_s=wish.configuration.max_duration or None,
        )
        for node in wish.configuration.jobs()
    ]


async def get(context: Context, user: User, project: str, name_or_id: str) -> RunView:
    """One run: the latest of that name, or the one with that id."""
    return await context.db.read(lambda tx: run_view(tx, get_run(tx, user, project, name_or_id), context.why_waiting))


def get_run(tx: Tx, user: User, project: str, name_or_id: str) -> Run:
    """The run on record.

    Raises:
        ResourceNotExistsError: there is none.
    """
    run = objects.find_run_by(tx, caller_in(tx, user, project).project.id, name_or_id)
    if run is None:
        raise ResourceNotExistsError(
            f"There is no run `{name_or_id}` in the project `{project}`", hint="`dstack ps -a` shows all runs"
        )
    return run


async def list_page(
    context: Context, user: User, project: str, *, finished_too: bool, limit: int, before: str | None
) -> RunPage:
    """Some runs, newest first; without `finished_too` the unfinished ones, or the last one where all have ended."""

    def read(tx: Tx) -> RunPage:
        project_id = caller_in(tx, user, project).project.id
        runs = objects.list_runs(tx, project_id, unfinished=not finished_too, before=before, limit=limit)
        if not runs and not finished_too and before is None:
            runs = objects.list_runs(tx, project_id, limit=1)
            return RunPage(runs=run_views(tx, runs, context.why_waiting), next=None)
        return RunPage(runs=run_views(tx, runs, context.why_waiting), next=runs[-1].id if len(runs) == limit else None)

    return await context.db.read(read)


async def stop(context: Context, user: User, project: str, name_or_id: str, *, abort: bool) -> RunView:
    """Write down the wish to end a run; the engine sees to it. A run that has ended stays as it is."""

    def write(tx: Tx) -> RunView:
        run = get_run(tx, user, project, name_or_id)
        wish = JobReason.ABORTED_BY_USER if abort else JobReason.STOPPED_BY_USER
        weaker = run.stop_asked is JobReason.ABORTED_BY_USER or run.stop_asked is wish
        if not run.status.is_finished() and not weaker:
            asked = replace(run, stop_asked=wish)
            commits.record(tx, asked)
            word = "abort" if abort else "stop"
            message = f"{user.name} asked to {word} {run.name}"
            events.add(tx, asked, actor=f"user {user.name}", kind="run.stop_asked", message=message)
        return brief_view(tx, get_run(tx, user, project, run.id))

    return await context.db.write(write)


async def delete(context: Context, user: User, project: str, name_or_id: str) -> None:
    """Forget a finished run, its events and its logs.

    Raises:
        InvalidRequestError: it has not ended.
    """

    def write(tx: Tx) -> list[str]:
        run = get_run(tx, user, project, name_or_id)
        if not run.status.is_finished():
            raise InvalidRequestError(f"The run `{run.name}` is {run.status}", hint=f"First: `dstack stop {run.name}`")
        return commits.delete_run(tx, run.id)

    for job_id in await context.db.write(write):
        await asyncio.to_thread(context.logs.delete, job_id)
