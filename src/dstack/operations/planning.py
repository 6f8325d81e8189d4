"""The plan of a submit: the offers that fit, and whether the run would wait."""

from dstack.engine.scheduler import would_wait
from dstack.operations.context import Action, Caller, Context, authorize
from dstack.operations.presenting import brief_view, offer_views
from dstack.operations.refusals import Judged, OnSale, judge, on_sale, with_nodes
from dstack.operations.revising import change_view
from dstack.operations.submitting import born, check_references, first_later, jobs_of
from dstack.operations.wishes import Wish, changes_of, understand
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import PlanView
from dstack.store import objects
from dstack.store.tx import Tx
from dstack.store.users import User


async def plan(context: Context, user: User, project: str, request: SubmitRun) -> PlanView:
    """Return the plan of a submit. It creates nothing."""
    wish = await understand(request)
    sale = await on_sale(context, user, project, wish.demand)
    judged = judge(wish.demand, sale.own, sale.absent)
    # The writer remembers the free capacity of all machines; a reader would query each.
    return await context.db.recall(
        lambda tx: _plan(tx, context, authorize(tx, user, project, Action.RUN), wish, sale, judged)
    )


def _plan(tx: Tx, context: Context, caller: Caller, wish: Wish, sale: OnSale, judged: Judged) -> PlanView:
    check_references(tx, caller, wish)
    run = born(tx, context, caller, wish, name="", key=None)
    jobs = jobs_of(run, context, wish)
    judged = with_nodes(judged, jobs or first_later(run, context), sale.market, lambda: objects.machines_in_use(tx))
    current = objects.find_run_by(tx, caller.project.id, wish.name) if wish.name else None
    active = current is not None and not current.status.is_finished()
    return PlanView(
        project=caller.project.name,
        user=caller.user.name,
        run_name=wish.name,
        spec=dict(wish.spec(wish.name)),
        offers=offer_views(tx, judged.best),
        offers_total=judged.total,
        max_price=judged.max_price,
        refusals=judged.refusals,
        current=brief_view(tx, current) if current is not None and active else None,
        changes=[change_view(one) for one in changes_of(current, wish)] if current is not None and active else [],
        waits=would_wait(tx, sale.market, jobs, run.priority, context.catalog.closed) if judged.best and jobs else None,
        resources=wish.resources,
        image=wish.image_on(judged.best[0]) if judged.best else None,
    )
