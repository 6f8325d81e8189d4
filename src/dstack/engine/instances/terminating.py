"""TERMINATING: let the agent end its jobs, then ask until the backend confirms the end of the machine."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.intents import Done, Failed, ShutDownAgent, TerminateMachine
from dstack.domain.objects import InstanceView, Next
from dstack.protocol.statuses import InstanceReason, InstanceStatus

ASK_AGAIN = timedelta(seconds=30)


def terminate(view: InstanceView) -> Next:
    """A refusal is no end: a machine costs money until its backend says that it is gone."""
    instance = view.instance
    match view.outcomes.get(TerminateMachine):
        case Done():
            gone = replace(instance, status=InstanceStatus.TERMINATED, status_since=view.now, finished_at=view.now)
            return Next((gone,))
        case Failed(error) if view.age < ASK_AGAIN:
            return Next((replace(instance, detail=error.message),), again=ASK_AGAIN - view.age)
        case Failed():
            return Next(
                (replace(instance, status_since=view.now),),
                (TerminateMachine(instance.id, instance.offer.backend_id),),
                ASK_AGAIN,
            )
        case None:
            return Next(do=(*_leave(view), TerminateMachine(instance.id, instance.offer.backend_id)))
        case _:
            return Next()


def _leave(view: InstanceView) -> tuple[ShutDownAgent, ...]:
    """Return the request to an agent that may have jobs. Its machine ends when they have, or their grace is over.

    A silent machine without jobs has nothing to lose.
    """
    instance = view.instance
    is_silent = instance.agent_seen_at is None or (instance.unreachable_since is not None and not view.jobs)
    if is_silent or instance.gone_at is not None:
        return ()
    return (ShutDownAgent(instance.id, max((job.stop_grace_s for job in view.jobs), default=0.0)),)


def end_if_gone(view: InstanceView) -> Next | None:
    """Nothing is left to wait for: what ran there has ended with it."""
    if view.instance.gone_at is None:
        return None
    backend = view.instance.offer.backend_name
    return end(view, InstanceReason.UNREACHABLE, f"{backend} no longer has the machine: reclaimed or deleted")


def end(view: InstanceView, reason: InstanceReason, detail: str) -> Next:
    """Start to end the machine for this reason."""
    terminating = replace(
        view.instance, status=InstanceStatus.TERMINATING, status_since=view.now, reason=reason, detail=detail
    )
    return Next((terminating,))
