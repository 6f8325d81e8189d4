"""PENDING: buy the machine, exactly once."""

from dataclasses import replace
from typing import Any

from dstack.domain.intents import LAUNCHED_WITHIN, Done, Failed, LaunchMachine
from dstack.domain.machines import Address, address_of_json
from dstack.domain.objects import Instance, InstanceView, Next
from dstack.engine.instances.terminating import end
from dstack.errors import NoCapacityError, Unanswered
from dstack.kit.units import duration_text
from dstack.protocol.statuses import InstanceReason, InstanceStatus


def launch(view: InstanceView) -> Next:
    """Ask the backend under the instance's own id: asked twice, it finds the machine it made."""
    instance = view.instance
    match view.outcomes.get(LaunchMachine):
        case None:
            return Next(do=(LaunchMachine(instance.id, instance.offer.backend_id),))
        case Done(value):
            launched = replace(
                instance,
                status=InstanceStatus.PROVISIONING,
                status_since=view.now,
                machine_id=value["machine_id"],
                address=_address_in(value),
                detail=value.get("detail", ""),
            )
            return Next((launched,))
        case Failed(NoCapacityError() as error):
            # Nothing was created, so there is nothing to end.
            gone = replace(
                instance,
                status=InstanceStatus.TERMINATED,
                status_since=view.now,
                finished_at=view.now,
                reason=InstanceReason.NO_OFFERS,
                detail=error.message,
            )
            return Next((gone,))
        # The backend may have created it before failing, or may still do so: through TERMINATING, never past it.
        case Failed(Unanswered()):
            return end(view, InstanceReason.LAUNCH_TIMEOUT, _why_given_up(instance))
        case Failed(error):
            return end(view, InstanceReason.ERROR, error.message)
        case _:
            return Next()


def _why_given_up(instance: Instance) -> str:
    within = duration_text(int(LAUNCHED_WITHIN.total_seconds()))
    missing = f"the launch did not succeed within {within}"
    return ": ".join(filter(None, [missing, instance.detail]))


def _address_in(launched: dict[str, Any]) -> Address | None:
    """Return the address in the answer to a launch; of an earlier version it has the name of the host."""
    host = launched.get("hostname")
    return address_of_json(launched.get("address")) if host is None else Address(host)
