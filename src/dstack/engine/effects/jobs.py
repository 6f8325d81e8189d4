"""Agents are asked to start, stop and forget jobs, and to let users in."""

from dstack.domain.intents import Done, ForgetJob, LetIn, StartJob, StopJob
from dstack.engine.effects.means import Means
from dstack.engine.orders import complete_order
from dstack.errors import AgentRefused, BackendError, BackendUnavailable, HostUnreachable

KEY_TIMEOUT_S = 10.0


async def start(means: Means, intent: StartJob) -> Done:
    """Hand a job to its agent, with all that it needs."""
    order = await means.db.recall(lambda tx: complete_order(tx, intent.object_id, means.vault))
    link = await means.link_to(intent.instance_id)
    if link is None:
        raise BackendError(f"The machine of instance `{intent.instance_id}` no longer exists")
    await link.start(order)
    return Done({})


async def stop(means: Means, intent: StopJob) -> Done:
    """End the job; one whose machine no longer exists has ended with it.

    A refusal of the agent may pass (a full disk): it is asked again, less and less often.
    """
    link = await means.link_to(intent.instance_id)
    try:
        if link is not None:
            await link.call("stop", {"job_id": intent.object_id, "grace_s": intent.grace_s})
    except AgentRefused as error:
        raise BackendUnavailable(error.message, hint=error.hint) from error
    return Done({})


async def forget(means: Means, intent: ForgetJob) -> Done:
    """Delete an ended job. One that was given up while its machine did not answer may still run: it is ended first."""
    link = await means.link_to(intent.instance_id)
    try:
        if link is not None:
            await link.forget(intent.object_id)
    except AgentRefused as error:
        assert link is not None
        await link.call("stop", {"job_id": intent.object_id, "grace_s": 0.0})
        raise BackendUnavailable(error.message, hint=error.hint) from error
    return Done({})


async def let_in(means: Means, intent: LetIn) -> Done:
    """Authorize a key. A user waits for it at a terminal: a failure is reported at once."""
    try:
        link = await means.link_to(intent.instance_id)
        if link is None:
            raise BackendError("The job's machine no longer exists")
        await link.call("authorize", {"job_id": intent.job_id, "key": intent.public_key}, timeout_s=KEY_TIMEOUT_S)
    except HostUnreachable:
        raise BackendError("The job's machine does not answer now") from None
    return Done({})
