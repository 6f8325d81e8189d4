"""Users of a made-up world change their runs, and its admin changes the backends.

Each change of a run is a revision, which its script names.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from dstack.domain.specs import SERVICE
from dstack.errors import BackendError, InvalidRequestError, ResourceNotExistsError
from dstack.operations import backends
from dstack.operations.context import Context
from dstack.store import commits, objects
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.faults import BackendChanges, RunChanges
from dstack.testing.ledger import Ledger
from dstack.testing.nature import Nature
from dstack.testing.servers import Server

TRY_AGAIN_AFTER_S = 60.0


async def change_runs(nature: Nature, ledger: Ledger, server: Callable[[], Server]) -> None:
    """Give an unfinished run another script now and then, until cancelled.

    Args:
        server: returns the server to ask: any.
    """
    fault = nature.find(RunChanges)
    while fault is not None:
        await asyncio.sleep(nature.chance.expovariate(1 / fault.every_s))
        unfinished = [id for kind, id, _ in ledger.unfinished() if kind == "run"]
        if unfinished:
            await server().ask(_change(nature.chance.choice(unfinished)))


async def change_backends(nature: Nature, server: Callable[[], Server]) -> None:
    """Add a backend, and delete it and add it again now and then, until cancelled.

    Args:
        server: returns the server to ask: any.
    """
    fault = nature.find(BackendChanges)
    while fault is not None:
        while (why_not := await server().ask(partial(_add, fault.name))) is not None:
            nature.observer.told(f"backend {fault.name}", f"is not added: {why_not}")
            await asyncio.sleep(TRY_AGAIN_AFTER_S)
        nature.observer.told(f"backend {fault.name}", "is added")
        await asyncio.sleep(nature.chance.expovariate(1 / fault.every_s))
        drains = nature.chance.random() < fault.drains
        done = await server().ask(partial(_delete, fault.name, drains))
        nature.observer.told(f"backend {fault.name}", done)
        await asyncio.sleep(nature.within(fault.away_at_most_s))


async def _add(name: str, context: Context, user: User) -> str | None:
    """Return why it is not added: its cloud may not answer, or list its machines late as another account would."""
    try:
        await backends.put(context, user, None, name, {"type": name})
    except (BackendError, InvalidRequestError) as error:
        return error.message
    return None


async def _delete(name: str, drains: bool, context: Context, user: User) -> str:
    """Return what became of it. A request whose answer was lost is made again, and may find it done."""
    try:
        await backends.delete(context, user, None, name, drain=drains)
    except (InvalidRequestError, ResourceNotExistsError) as error:
        return f"is not deleted: {error.message}"
    return "is deleted"


def _change(run_id: str) -> Callable[[Context, User], Coroutine[Any, Any, None]]:
    def write(tx: Tx, user: User) -> None:
        run = objects.find_run(tx, run_id)
        if run is None or run.status.is_finished() or run.type == SERVICE:
            return  # services are changed by their own users, as `dstack apply` does
        named = {"commands": ["work", f"# revision {run.revision + 1}"]}
        spec = {**run.spec, "configuration": {**run.spec["configuration"], **named}}
        commits.revise(tx, run, spec, user_id=user.id)

    async def change(context: Context, user: User) -> None:
        await context.db.write(lambda tx: write(tx, user))

    return change
