"""The way into a job: which door, and for whom it opens."""

import asyncio

from dstack.domain.intents import Failed, LetIn, Pending
from dstack.domain.objects import Instance, Job
from dstack.errors import HostUnreachable, InvalidRequestError, ResourceNotExistsError
from dstack.kit.signals import Subscription
from dstack.operations.context import Action, Context
from dstack.operations.runs import get_run
from dstack.protocol.jobs import no_job_text
from dstack.protocol.requests import GrantAccess
from dstack.protocol.views import AccessView
from dstack.store import intents, objects
from dstack.store.tx import Tx
from dstack.store.users import User

GRANT_TIMEOUT_S = 20.0
DOOR_TIMEOUT_S = 20.0
"""How long a fresh machine's SSH server may take to come up."""


async def grant(context: Context, user: User, project: str, run: str, request: GrantAccess) -> AccessView:
    """Authorize a key for a job, and return the address of its SSH server.

    Raises:
        InvalidRequestError: the key is not valid, or the job does not run.
        ResourceNotExistsError: there is no such job.
        HostUnreachable: the job's machine does not answer just now.
    """
    key = request.public_key.strip()
    if not key.startswith("ssh-ed25519 ") or not key.isprintable():
        raise InvalidRequestError("The key is not an ed25519 public key", hint="Make one with `ssh-keygen -t ed25519`")
    grant_id = context.ids.new_id()

    def ask(tx: Tx) -> Job:
        job = _job_in(tx, user, project, run, request)
        intents.add(tx, LetIn(grant_id, job.instance_id or "", job.id, key))
        return job

    with context.signals.subscribe(grant_id) as answered:
        job = await context.db.write(ask)
        await _granted(context, grant_id, answered)
    instance = await _with_door(context, job.instance_id or "")
    assert instance.hostname and instance.ssh_port and instance.ssh_host_key
    return AccessView(
        job_id=job.id,
        hostname=instance.hostname,
        ssh_port=instance.ssh_port,
        ssh_user=job.id,
        working_dir=(job.report and job.report.working_dir) or "/",
        shares_network=not job.share.container or not instance.offer.is_shared,
        host_key=instance.ssh_host_key,
        ports=job.real_ports,
    )


async def _granted(context: Context, grant_id: str, answered: Subscription) -> None:
    """Wait until the server that owns the machine has passed the key on."""
    try:
        async with asyncio.timeout(GRANT_TIMEOUT_S):
            while True:
                answered.take()
                outcome = (await context.db.read(lambda tx: intents.outcomes_of(tx, "grant", grant_id)))[LetIn]
                if not isinstance(outcome, Pending):
                    break
                await answered.wait()
    except TimeoutError:
        raise HostUnreachable(f"The job's machine was not reached within {GRANT_TIMEOUT_S:g} s") from None
    finally:
        await context.db.write(lambda tx: intents.forget(tx, "grant", [grant_id]))
    if isinstance(outcome, Failed):
        raise HostUnreachable(outcome.error.message, hint=outcome.error.hint)


def _job_in(tx: Tx, user: User, project: str, run: str, request: GrantAccess) -> Job:
    found = get_run(tx, user, project, run, Action.RUN)
    jobs = objects.jobs_of_run(tx, found.id)
    for job in jobs:
        if (job.replica, job.node) == (request.replica, request.node):
            if job.instance_id is None or not job.holds_machine:
                raise InvalidRequestError(f"The {job.title} of `{found.name}` is {job.status}: nothing runs there")
            return job
    known = [(job.replica, job.node) for job in jobs]
    raise ResourceNotExistsError(no_job_text(found.name, request.replica, request.node, known))


async def _with_door(context: Context, instance_id: str) -> Instance:
    """The instance, once the SSH server beside its agent is up."""
    try:
        async with asyncio.timeout(DOOR_TIMEOUT_S):
            with context.signals.subscribe(instance_id) as changed:
                while True:
                    changed.take()
                    instance = await context.db.read(lambda tx: objects.find_instance(tx, instance_id))
                    if instance is not None and instance.ssh_port and instance.ssh_host_key and instance.hostname:
                        return instance
                    await changed.wait()
    except TimeoutError:
        raise HostUnreachable(
            f"The SSH server on the job's machine did not come up within {DOOR_TIMEOUT_S:g} s"
        ) from None
