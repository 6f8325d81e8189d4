"""The hands of the engine: the one place where intents touch the world.

Each performer may be run again after a crash or a lost answer: it is idempotent by the object's id. It never decides:
it returns what came of it, and the object's step judges.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from dstack.domain import intents
from dstack.domain.intents import Done, Intent
from dstack.engine.effects import jobs, machines
from dstack.engine.effects.means import Means


class Effects(Means):
    """Performs intents."""

    __slots__ = ()

    async def perform(self, intent: Intent) -> Done:
        """Do it, or find it done.

        Raises:
            DstackError: it did not work; asking again may help where it is `retryable`.
        """
        return await PERFORMERS[type(intent)](self, intent)


PERFORMERS: dict[type[Intent], Callable[[Means, Any], Awaitable[Done]]] = {
    intents.LaunchMachine: machines.launch,
    intents.LocateMachine: machines.locate,
    intents.ShutDownAgent: machines.shut_down,
    intents.TerminateMachine: machines.terminate,
    intents.StartJob: jobs.start,
    intents.StopJob: jobs.stop,
    intents.ForgetJob: jobs.forget,
    intents.LetIn: jobs.let_in,
}
