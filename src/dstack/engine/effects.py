"""The hands of the engine: the one place where intents touch the world.

Each branch may be run again after a crash or a lost answer: it is idempotent by the object's id. It never decides: it
says what came of it, and the object's step judges.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from dstack.backends.threads import Backends
from dstack.domain.intents import Done, ForgetJob, Intent, LaunchMachine, LetIn, StartJob, StopJob, TerminateMachine
from dstack.domain.objects import Instance
from dstack.engine.links import Links
from dstack.engine.orders import complete_order
from dstack.errors import AgentRefused, BackendError, BackendUnavailable, HostUnreachable
from dstack.hosts.link import Link
from dstack.kit.vault import Vault
from dstack.store import objects
from dstack.store.db import Database

BACKEND_TIMEOUT_S = 600.0
SHUTDOWN_TIMEOUT_S = 60.0
KEY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Effects:
    """What it takes to act: the backends, the links to the hosts, what is on record, and the key to secrets."""

    db: Database
    backends: Backends
    links: Links
    vault: Vault

    async def perform(self, intent: Intent) -> Done:
        """Do it, or find it done.

        Raises:
            DstackError: it did not work; `retryable` tells whether asking again may help.
        """
        done: Done = await PERFORMERS[type(intent)](self, intent)
        return done

    async def _instance(self, id: str) -> Instance:
        instance = await self.db.recall(lambda tx: objects.find_instance(tx, id))
        if instance is None:
            raise BackendError(f"The instance `{id}` is not on record")
        return instance

    async def _launch(self, intent: LaunchMachine) -> Done:
        instance = await self._instance(intent.object_id)
        if not instance.takes_jobs:
            raise BackendError("The instance is ending: it gets no machine")
        machine = await self.backends.call(
            instance.offer.backend,
            lambda backend: backend.launch(instance.id, instance.offer),
            timeout_s=BACKEND_TIMEOUT_S,
        )
        return Done({"machine_id": machine.id, "hostname": machine.hostname})

    async def _terminate(self, intent: TerminateMachine) -> Done:
        """The agent ends its jobs and itself first; a machine whose agent does not answer goes all the same."""
        instance = await self._instance(intent.object_id)
        if await self._end(instance):
            await self.links.drop(instance.id)
            return Done({})
        link = self.links.follow(instance)
        try:
            await link.call("shutdown", {}, timeout_s=SHUTDOWN_TIMEOUT_S)
        except HostUnreachable:
            pass  # the machine goes anyway
        finally:
            await self.links.drop(instance.id)
        if not await self._end(instance):
            raise BackendUnavailable(f"The machine of instance `{instance.id}` is still ending")
        return Done({})

    async def _end(self, instance: Instance) -> bool:
        """Return whether the backend confirms the end of the machine."""
        return await self.backends.call(
            instance.offer.backend,
            lambda backend: backend.terminate(instance.id),
            timeout_s=BACKEND_TIMEOUT_S,
            ends_machine=True,
        )

    async def _start(self, intent: StartJob) -> Done:
        order = await self.db.recall(lambda tx: complete_order(tx, intent.object_id, self.vault))
        link = await self._link_to(intent.instance_id)
        if link is None:
            raise BackendError(f"The machine of instance `{intent.instance_id}` no longer exists")
        await link.start(order)
        return Done({})

    async def _link_to(self, instance_id: str) -> Link | None:
        """The link to an instance; None where the machine is gone for good."""
        link = self.links.find(instance_id)
        if link is None and (await self._instance(instance_id)).finished_at is None:
            raise HostUnreachable(f"There is no link to instance `{instance_id}`")
        return link

    async def _stop(self, intent: StopJob) -> Done:
        """Have the job ended; one whose machine no longer exists has ended with it.

        What kept the agent from it (a full disk, say) may pass: it is asked again, less and less often.
        """
        link = await self._link_to(intent.instance_id)
        try:
            if link is not None:
                await link.call("stop", {"job_id": intent.object_id, "grace_s": intent.grace_s})
        except AgentRefused as error:
            raise BackendUnavailable(error.message, hint=error.hint) from error
        return Done({})

    async def _forget(self, intent: ForgetJob) -> Done:
        """What was given up while its machine did not answer may still run there: it is ended first."""
        link = await self._link_to(intent.instance_id)
        try:
            if link is not None:
                await link.forget(intent.object_id)
        except AgentRefused as error:
            assert link is not None
            await link.call("stop", {"job_id": intent.object_id, "grace_s": 0.0})
            raise BackendUnavailable(error.message, hint=error.hint) from error
        return Done({})

    async def _let_in(self, intent: LetIn) -> Done:
        """Somebody waits for it at a terminal: it is said at once that it does not work."""
        try:
            link = await self._link_to(intent.instance_id)
            if link is None:
                raise BackendError("The job's machine no longer exists")
            await link.call("authorize", {"job_id": intent.job_id, "key": intent.public_key}, timeout_s=KEY_TIMEOUT_S)
        except HostUnreachable:
            raise BackendError("The job's machine does not answer now") from None
        return Done({})


PERFORMERS: dict[type[Intent], Callable[[Effects, Any], Awaitable[Done]]] = {
    LaunchMachine: lambda effects, intent: effects._launch(intent),
    TerminateMachine: lambda effects, intent: effects._terminate(intent),
    StartJob: lambda effects, intent: effects._start(intent),
    StopJob: lambda effects, intent: effects._stop(intent),
    ForgetJob: lambda effects, intent: effects._forget(intent),
    LetIn: lambda effects, intent: effects._let_in(intent),
}
