"""PROVISIONING: learn where the machine is and how it does, and wait for its agent to answer."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from dstack.domain.intents import Done, Failed, LaunchMachine, LocateMachine, Outcome, Pending
from dstack.domain.machines import MachineState, address_of_json
from dstack.domain.objects import Instance, InstanceView, Next
from dstack.engine.instances.terminating import end, end_if_gone
from dstack.kit.units import duration_text
from dstack.protocol.statuses import InstanceReason, InstanceStatus

FORMER_BOOT_TIMEOUT_S = 600.0
"""That of machines which an earlier version launched."""


def boot(view: InstanceView) -> Next:
    """Become ready with the agent's first message; end a machine that fails, or whose agent stays silent."""
    if (gone := end_if_gone(view)) is not None:
        return gone
    if view.instance.agent_seen_at is not None:
        status = InstanceStatus.BUSY if view.jobs else InstanceStatus.IDLE
        return Next((replace(view.instance, status=status, status_since=view.now),))
    launched = _learned(view, LaunchMachine)
    located = _learned(view, LocateMachine)
    state = located.get("state", launched.get("state", MachineState.PENDING))
    if MachineState(state).is_over:
        why = located.get("detail") or launched.get("detail") or f"{view.instance.offer.backend_name} calls it {state}"
        return end(view, InstanceReason.ERROR, f"the machine failed to boot: {why}")
    timeout_s = launched.get("boot_timeout_s", FORMER_BOOT_TIMEOUT_S)
    left = timedelta(seconds=timeout_s) - view.age
    if left <= timedelta(0):
        return end(view, InstanceReason.PROVISIONING_TIMEOUT, _why_late(view.instance, timeout_s))
    found = _with_news(view.instance, view.outcomes.get(LocateMachine))
    every_s = launched.get("locate_every_s")
    return Next(
        () if found == view.instance else (found,),
        () if every_s is None else _look_up(view, timedelta(seconds=every_s)),
        left if every_s is None else min(left, _until_next(view.age, timedelta(seconds=every_s))),
    )


def _learned(view: InstanceView, kind: type[LaunchMachine | LocateMachine]) -> dict[str, Any]:
    outcome = view.outcomes.get(kind)
    return outcome.value if isinstance(outcome, Done) else {}


def _why_late(instance: Instance, timeout_s: float) -> str:
    missing = "the machine got no address" if instance.address is None else "its agent did not answer"
    return ": ".join(filter(None, [f"{missing} within {duration_text(int(timeout_s))}", instance.detail]))


def _with_news(instance: Instance, located: Outcome | None) -> Instance:
    """Return the instance with what the latest look-up found, or why it failed; an address that was known is kept."""
    match located:
        case Done({"address": address, "detail": detail}):
            known = address_of_json(address) or instance.address
            return replace(instance, address=known, detail=detail or instance.detail)
        case Failed(error):
            return replace(instance, detail=error.message)
        case _:
            return instance


def _look_up(view: InstanceView, every: timedelta) -> tuple[LocateMachine, ...]:
    """Return the look-up that is due, unless the one before is still under way."""
    number = view.age // every
    if number == 0 or isinstance(view.outcomes.get(LocateMachine), Pending):
        return ()
    return (LocateMachine(view.instance.id, number, view.instance.offer.backend_id),)


def _until_next(age: timedelta, every: timedelta) -> timedelta:
    return every - age % every
