"""IDLE, BUSY: keep the machine as long as it has jobs, and warm for the next one for a while."""

from dataclasses import replace

from dstack.domain.objects import InstanceView, Next
from dstack.engine.instances.terminating import end
from dstack.engine.jobs.watching import UNREACHABLE_AFTER
from dstack.protocol.statuses import InstanceReason, InstanceStatus


def work(view: InstanceView) -> Next:
    """Busy until the last job has ended; its jobs mind a broken link."""
    if view.jobs:
        return Next()
    return Next((replace(view.instance, status=InstanceStatus.IDLE, status_since=view.now),))


def idle(view: InstanceView) -> Next:
    """Idle until a job is placed, the time is over, or the machine is silent for too long."""
    if view.jobs:
        return Next((replace(view.instance, status=InstanceStatus.BUSY, status_since=view.now),))
    since = view.instance.unreachable_since
    if since is not None and view.now - since >= UNREACHABLE_AFTER:
        return end(view, InstanceReason.UNREACHABLE, "the machine stopped answering")
    if view.instance.idle_duration is not None and view.age >= view.instance.idle_duration:
        return end(view, InstanceReason.IDLE_TIMEOUT, "")
    waits = []
    if view.instance.idle_duration is not None:
        waits.append(view.instance.idle_duration - view.age)
    if since is not None:
        waits.append(UNREACHABLE_AFTER - (view.now - since))
    return Next(again=min(waits, default=None))
