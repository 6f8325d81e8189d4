"""PROVISIONING: wait for the agent to answer."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.objects import InstanceView, Next
from dstack.engine.instances.terminating import end, end_if_gone
from dstack.protocol.statuses import InstanceReason, InstanceStatus

BOOT_TIMEOUT = timedelta(minutes=10)


def boot(view: InstanceView) -> Next:
    """Ready with the agent's first word; given up without one."""
    if (gone := end_if_gone(view)) is not None:
        return gone
    if view.instance.agent_seen_at is not None:
        status = InstanceStatus.BUSY if view.jobs else InstanceStatus.IDLE
        return Next((replace(view.instance, status=status, status_since=view.now),))
    if view.age >= BOOT_TIMEOUT:
        minutes = int(BOOT_TIMEOUT.total_seconds() // 60)
        silent = f"its agent did not answer within {minutes} minutes"
        return end(view, InstanceReason.PROVISIONING_TIMEOUT, ": ".join(filter(None, [silent, view.instance.detail])))
    return Next(again=BOOT_TIMEOUT - view.age)
