"""Machines are bought, looked up and ended."""

from dstack.backends.base import Backend, LaunchRequest
from dstack.backends.counts import Verb
from dstack.domain.intents import Done, LaunchMachine, LocateMachine, ShutDownAgent, TerminateMachine
from dstack.domain.machines import Machine, MachineState, address_to_json
from dstack.domain.objects import Instance
from dstack.engine.effects.means import Means
from dstack.errors import AgentRefused, BackendError, BackendUnavailable, HostUnreachable
from dstack.kit.ids import SHORT
from dstack.store.users import names_of

LAUNCH_TIMEOUT_S = 300.0
LOOK_UP_TIMEOUT_S = 30.0
TERMINATE_TIMEOUT_S = 120.0
"""A call that was never answered is made again after this. Until then the machine costs money."""
NAME_MAX = 60
"""The characters that every cloud takes in the name of a machine."""


async def launch(means: Means, intent: LaunchMachine) -> Done:
    """Start the machine of an instance, or find the one that was started for it."""
    instance = await means.instance(intent.object_id)
    if not instance.takes_jobs:
        raise BackendError("The instance is ending: it gets no machine")
    if instance.id in means.launching:
        raise BackendUnavailable(f"The backend `{instance.offer.backend}` has not answered the launch yet")
    request = await _request_for(means, instance)
    id = instance.offer.backend_id

    def start(backend: Backend) -> Machine:
        means.launching.add(instance.id)
        try:
            machine = backend.launch(request)
        except Exception:
            means.launching.discard(instance.id)
            raise
        means.launching.discard(instance.id)
        return machine

    machine = await means.backends.call(id, Verb.LAUNCH, start, timeout_s=LAUNCH_TIMEOUT_S)
    abilities = means.backends.abilities(id)
    every = abilities.locate_every
    return Done(
        {
            "machine_id": machine.id,
            **_news_of(machine),
            "boot_timeout_s": abilities.boot_timeout.total_seconds(),
            "locate_every_s": None if every is None else every.total_seconds(),
        }
    )


async def _request_for(means: Means, instance: Instance) -> LaunchRequest:
    owner = instance.project_id
    names = {} if owner is None else await means.db.recall(lambda tx: names_of(tx, [owner]))
    project = names.get(owner or "", "all")
    short = instance.id[-SHORT:]
    name = f"dstack-{project[: NAME_MAX - len(f'dstack--{short}')]}-{short}"
    tags = {"dstack_project": project, "dstack_instance": instance.id}
    return LaunchRequest(key=instance.id, name=name, offer=instance.offer, tags=tags)


def _news_of(machine: Machine) -> dict[str, object]:
    address = address_to_json(machine.address)
    return {"state": machine.state.value, "address": address, "detail": machine.detail}


async def locate(means: Means, intent: LocateMachine) -> Done:
    """Look a booting machine up. A machine that is not listed yet is not a failure; neither is a silent backend."""
    instance = await means.instance(intent.object_id)
    try:
        machines = await means.backends.call(
            instance.offer.backend_id,
            Verb.LOOK_UP,
            lambda backend: backend.look_up(instance.id),
            timeout_s=LOOK_UP_TIMEOUT_S,
        )
    except BackendUnavailable as error:
        return Done({"state": MachineState.PENDING.value, "address": None, "detail": error.message})
    found = [_news_of(machine) for machine in machines if machine.id == instance.machine_id]
    return Done(found[0] if found else {})


async def shut_down(means: Means, intent: ShutDownAgent) -> Done:
    """The agent ends its jobs and itself; where it does not answer, the machine ends all the same."""
    instance = await means.instance(intent.object_id)
    try:
        await means.links.follow(instance).shut_down(intent.grace_s)
    except (HostUnreachable, AgentRefused) as error:
        return Done({"detail": error.message})
    finally:
        await means.links.drop(instance.id)
    return Done({})


async def terminate(means: Means, intent: TerminateMachine) -> Done:
    """End the machine of an instance; performed again until the backend confirms the end.

    A launch that is still under way may create the machine after that: the end is certain only once it has returned.
    """
    instance = await means.instance(intent.object_id)
    await means.links.drop(instance.id)
    if instance.finished_at is not None:
        return Done({})  # it was given up with its backend
    may_come = instance.id in means.launching  # asked first: it may return while the backend is called

    def end(backend: Backend) -> bool:
        return backend.terminate(instance.id)

    id = instance.offer.backend_id
    if not await means.backends.call(id, Verb.TERMINATE, end, timeout_s=TERMINATE_TIMEOUT_S):
        raise BackendUnavailable(f"The machine of instance `{instance.id}` is still ending")
    if may_come:
        raise BackendUnavailable(f"The launch of instance `{instance.id}` has not returned")
    return Done({})
