"""IDLE, BUSY: keep the machine as long as it has jobs, and warm for the next one for a while."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.objects import InstanceView, Next
from dstack.engine.instances.terminating import end, end_if_gone
from dstack.engine.jobs.watching import UNREACHABLE_AFTER
from dstack.protocol.statuses import InstanceReason, InstanceStatus


def work(view: InstanceView) -> Next:
    """Busy until the last job has ended, or the machine is silent for too long."""
    if not view.jobs:
        return Next((replace(view.instance, status=InstanceStatus.IDLE, status_since=view.now),))
    again = _soonest(_until_given_up(view), _until_rested(view))
    return _end_if_silent(view) or _end_of_rest(view) or Next(again=again)


def idle(view: InstanceView) -> Next:
    """Idle until a job is placed, the time is over, its backend is removed, or the machine is silent for too long."""
    if view.jobs:
        return Next((replace(view.instance, status=InstanceStatus.BUSY, status_since=view.now),))
    if (better := _end_if_silent(view) or _end_of_rest(view)) is not None:
        return better
    if view.instance.drain_asked_at is not None:
        return end(view, InstanceReason.BACKEND_REMOVED, "")
    if view.instance.idle_duration is not None and view.age >= view.instance.idle_duration:
        return end(view, InstanceReason.IDLE_TIMEOUT, "")
    timeout = None if view.instance.idle_duration is None else view.instance.idle_duration - view.age
    return Next(again=_soonest(timeout, _until_given_up(view), _until_rested(view)))


def _soonest(*spans: timedelta | None) -> timedelta | None:
    return min(filter(None, spans), default=None)


def _end_of_rest(view: InstanceView) -> Next | None:
    """It takes jobs again; the next failure has it rest for longer."""
    if view.instance.rests_until is None or view.now < view.instance.rests_until:
        return None
    return Next((replace(view.instance, rests_until=None),))


def _until_rested(view: InstanceView) -> timedelta | None:
    return None if view.instance.rests_until is None else view.instance.rests_until - view.now


def _end_if_silent(view: InstanceView) -> Next | None:
    """A machine that does not answer costs money all the same, and what it runs may not be started elsewhere."""
    if (gone := end_if_gone(view)) is not None:
        return gone
    since = view.instance.unreachable_since
    if since is None or view.now - since < UNREACHABLE_AFTER:
        return None
    minutes = int(UNREACHABLE_AFTER.total_seconds() // 60)
    return end(view, InstanceReason.UNREACHABLE, f"the machine did not answer for {minutes} minutes")


def _until_given_up(view: InstanceView) -> timedelta | None:
    since = view.instance.unreachable_since
    return None if since is None else UNREACHABLE_AFTER - (view.now - since)
