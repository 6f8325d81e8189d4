"""PENDING: buy the machine, exactly once."""

from dataclasses import replace

from dstack.domain.intents import Done, Failed, LaunchMachine
from dstack.domain.machines import address_of_json
from dstack.domain.objects import InstanceView, Next
from dstack.engine.instances.terminating import end
from dstack.errors import NoCapacityError
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
                address=address_of_json(value["address"]),
                detail=value["detail"],
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
        case _:
            return Next()
