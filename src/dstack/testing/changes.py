"""Users of a made-up world change their runs: each change is a revision, which its script names."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from dstack.operations.context import Context
from dstack.store import commits, objects
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.faults import RunChanges
from dstack.testing.ledger import Ledger
from dstack.testing.nature import Nature
from dstack.testing.servers import Server


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


def _change(run_id: str) -> Callable[[Context, User], Coroutine[Any, Any, None]]:
    def write(tx: Tx, user: User) -> None:
        run = objects.find_run(tx, run_id)
        if run is None or run.status.is_finished():
            return
        named = {"commands": ["work", f"# revision {run.revision + 1}"]}
        spec = {**run.spec, "configuration": {**run.spec["configuration"], **named}}
        commits.revise(tx, run, spec, user_id=user.id)

    async def change(context: Context, user: User) -> None:
        await context.db.write(lambda tx: write(tx, user))

    return change
