"""Submit a run: it is refused with its reasons, or exists, is queued and has been announced."""

from dstack.domain.births import Owner, first_jobs, new_replica, new_run
from dstack.domain.objects import Job, Revision, Run
from dstack.errors import (
    InvalidRequestError,
    RepoDoesNotExistError,
    ResourceExistsError,
)
from dstack.kit.text import listed
from dstack.operations.context import Action, Caller, Context, authorize
from dstack.operations.presenting import brief_view
from dstack.operations.refusals import OnSale, check_nodes, check_offers, on_sale
from dstack.operations.wishes import Wish, understand
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import RunView
from dstack.spec.names import random_name
from dstack.store import commits, objects, secrets
from dstack.store.tx import Tx
from dstack.store.users import User

NAME_TRIES = 100


async def submit(context: Context, user: User, project: str, request: SubmitRun, key: str | None) -> RunView:
    """Accept a run: it exists, is queued and has been announced once this returns.

    Args:
        key: the idempotency key; the same key gives the same run.

    Raises:
        InvalidRequestError: the configuration or the name cannot work.
        NoCapacityError: no available machine will ever fit; the message has the reasons.
        ResourceExistsError: an active run has this name.
    """
    wish = await understand(request)
    if wish.configuration.repos and request.repo is None:
        raise InvalidRequestError(
            "`repos` names a repo, and the request brings none",
            hint="`dstack apply` and `client.runs.submit` bring it; over HTTP it goes into `repo`",
        )
    sale = await on_sale(context, user, project, wish.demand)
    check_offers(wish.demand, sale.own, sale.absent)
    # A commit whose answer was lost is done again: without a key it would be a second run.
    key = key or context.ids.new_id()

    def write(tx: Tx) -> RunView:
        return _submit(tx, context, authorize(tx, user, project, Action.RUN), wish, sale, key)

    return await context.db.write(write)


def _submit(tx: Tx, context: Context, caller: Caller, wish: Wish, sale: OnSale, key: str) -> RunView:
    scoped = f"{caller.project.id}/{key}"
    if (known := objects.find_run_by_key(tx, scoped)) is not None:
        return brief_view(tx, known)
    check_references(tx, caller, wish)
    run = born(tx, context, caller, wish, _claim_name(tx, context, caller, wish.name), scoped)
    jobs = jobs_of(run, context, wish)
    check_nodes(jobs or first_later(run, context), sale.market, lambda: objects.machines_in_use(tx))
    commits.add_run(tx, run, () if run.retry_at else jobs, actor=f"user {caller.user.name}")
    return brief_view(tx, run)


def check_references(tx: Tx, caller: Caller, wish: Wish) -> None:
    """Refuse what names a secret or a remote repo that is not there."""
    names = sorted(wish.secrets)
    known = secrets.sealed_secrets(tx, caller.project.id, names) if names else {}
    if missing := [name for name in names if name not in known]:
        raise InvalidRequestError(
            f"There is no secret {listed(missing)} in the project `{caller.project.name}`",
            hint=f"`dstack secret set {missing[0]}` first",
        )
    repo = wish.request.repo
    if repo is not None and repo.kind == "remote":
        initialized = secrets.find_repo(tx, caller.project.id, caller.user.id, repo.id)
        if initialized is None or initialized.url is None:
            raise RepoDoesNotExistError(
                f"The repo `{repo.url}` is not initialized in the project `{caller.project.name}`",
                hint="`client.repos.init(repo)` or `dstack init` first",
            )


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
    owner = Owner(caller.project.id, caller.user.id)
    revision = Revision(context.ids.new_id(), 1, wish.spec(name))
    return new_run(revision, wish.configuration, owner, name, now=tx.clock.now(), key=key)


def first_later(run: Run, context: Context) -> tuple[Job, ...]:
    """Return the first job of a service that begins without replicas: machines must fit it too."""
    return (new_replica(run, 0, None, context.ids.new_id(), run.submitted_at),)


def jobs_of(run: Run, context: Context, wish: Wish) -> tuple[Job, ...]:
    """The first attempts of its jobs, written nowhere yet."""
    return first_jobs(run, [context.ids.new_id() for _ in wish.configuration.jobs()], run.submitted_at)
