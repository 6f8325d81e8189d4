"""Another configuration for a run that goes on: in place, or with a rollout."""

from collections.abc import Sequence
from dataclasses import replace

from dstack.domain.births import stop_grace_of
from dstack.domain.objects import Run
from dstack.domain.updates import Change, rolled_out, shown
from dstack.errors import InvalidRequestError
from dstack.operations.context import Caller
from dstack.operations.refusals import OnSale, check_offers
from dstack.operations.submitting import check_references
from dstack.operations.wishes import Wish, changes_of, changes_to
from dstack.protocol.views import ChangeView
from dstack.store import commits, events, objects, queue, revisions, wakes
from dstack.store.tx import Tx


def revise(tx: Tx, caller: Caller, run: Run, wish: Wish, sale: OnSale | None, *, force: bool) -> None:
    """Give a run its next revision, if the request changes something.

    Args:
        sale: the offers for new replicas of a service; None for other runs.
        force: whether a rollout, also the present one, replaces all replicas at once.

    Raises:
        InvalidRequestError: a change needs a new start, or a secret is missing.
        NoCapacityError: no machine will ever fit a service's new replicas.
    """
    found = changes_of(run, wish)
    _refuse_restarts(run, found)
    if sale is not None and any(change.by_rollout for change in found):
        check_offers(wish.demand, sale.own, sale.absent)
        check_references(tx, caller, wish)
    if found:
        _change(tx, caller, run, wish, found, force=force)
    elif force and run.rollout is not None:
        commits.record(tx, replace(run, rollout=replace(run.rollout, is_forced=True)))
        message = f"{caller.user.name} had the replicas of {run.name} replaced at once"
        events.add(tx, run, actor=f"user {caller.user.name}", kind="run.updated", message=message)


def _refuse_restarts(run: Run, found: Sequence[Change]) -> None:
    """Raise `InvalidRequestError` where a change needs a new start."""
    needed = [change for change in found if not change.in_place and not change.by_rollout]
    fields = ", ".join(f"`{change.field}`" for change in needed)
    cannot = f"cannot continue with another {fields}"
    if (type := next((change for change in needed if change.field == "type"), None)) is not None:
        cannot = f"is a {type.old}, and cannot become a {type.new}"
    if needed:
        raise InvalidRequestError(f"The run `{run.name}` {cannot}", hint="Stop it and submit it again")


def change_view(change: Change) -> ChangeView:
    """One change as the API shows it."""
    old, new = shown(change.field, change.old), shown(change.field, change.new)
    how = {"in_place": change.in_place, "by_rollout": change.by_rollout}
    return ChangeView(field=change.field, old=old, new=new, **how)


def _change(tx: Tx, caller: Caller, run: Run, wish: Wish, found: Sequence[Change], *, force: bool) -> None:
    user = caller.user
    configuration = wish.configuration
    spec = {**run.spec, "configuration": dict(wish.request.configuration)}
    changed = replace(run, priority=configuration.priority)
    if any(change.by_rollout for change in found):
        wished = wish.spec(run.name)
        spec = {**wished, "repo": wished["repo"] or run.spec.get("repo")}
        changed = _rolled_out(tx, changed, wish, force=force)
    updated = commits.revise(tx, changed, spec, user_id=user.id)
    if configuration.priority != run.priority:
        wakes.add(tx, "scheduler", "placement")
    for job in objects.jobs_of_run(tx, run.id):
        queue.forget(tx, job)
        queue.update(tx, job)
        if not job.status.is_finished():
            commits.record(tx, replace(job, stop_grace_s=stop_grace_of(configuration)))
    fields = ", ".join(change.field for change in found)
    message = f"{user.name} changed {fields} of {run.name}"
    events.add(tx, updated, actor=f"user {user.name}", kind="run.updated", message=message)


def _rolled_out(tx: Tx, run: Run, wish: Wish, *, force: bool) -> Run:
    """Return the service with the rollout of its next revision, which may be the one that it would have returned to."""
    is_ready = any(job.is_ready and job.deployment == run.deployment for job in objects.jobs_of_run(tx, run.id))
    back_to = None if run.rollout is None else run.rollout.back_to
    back = None if back_to is None else revisions.find(tx, run, back_to)
    returns = back is not None and not any(change.by_rollout for change in changes_to(back, wish))
    return rolled_out(run, is_ready=is_ready, returns=returns, is_forced=force, now=tx.clock.now())
