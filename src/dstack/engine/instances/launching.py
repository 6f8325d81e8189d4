"""PENDING: buy the machine, exactly once."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from dstack.domain.intents import Done, Failed, LaunchMachine
from dstack.domain.machines import Address, address_of_json
from dstack.domain.objects import InstanceView, Next
from dstack.engine.instances.terminating import end
from dstack.errors import NoCapacityError
from dstack.protocol.statuses import InstanceReason, InstanceStatus

UNUSED_AFTER = timedelta(minutes=10)
"""The age at which an unanswered launch is given up, if no job waits for its machine."""


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
        case Failed(error):
            # The backend may have created it before failing: through TERMINATING, never past it.
            return end(view, InstanceReason.ERROR, error.message)
        case _ if view.jobs:
            return Next()
        case _:
            left = UNUSED_AFTER - view.age
            if left > timedelta(0):
                return Next(again=left)
            return end(view, InstanceReason.ERROR, "its backend has not answered the launch, and no job needs it now")


def _address_in(launched: dict[str, Any]) -> Address | None:
    """Return the address in the answer to a launch; of an earlier version it has the name of the host."""
    host = launched.get("hostname")
    return address_of_json(launched.get("address")) if host is None else Address(host)
