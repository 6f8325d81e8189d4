"""The machines of every backend and their instances, to check costs."""

import asyncio
import logging
from collections.abc import Iterator, Sequence

from dstack.domain.objects import Instance
from dstack.domain.reconciling import Difference, Finding
from dstack.errors import DstackError
from dstack.kit.text import utc_text
from dstack.operations.context import Action, Context, authorize_on_server
from dstack.protocol.backends import AuditView, MachineView
from dstack.store import objects
from dstack.store.tx import Tx
from dstack.store.users import User

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 20.0


async def audit(context: Context, user: User) -> AuditView:
    """Ask all backends now. Nothing is done about what is found: the reconciler does that by itself.

    Raises:
        ForbiddenError: the user is not an admin of the server.
    """
    await context.db.read(lambda tx: authorize_on_server(tx, user, Action.AUDIT))
    names = sorted(context.backends)
    answers = await asyncio.gather(*(_ask(context, name) for name in names))
    silent = [name for name, answer in zip(names, answers, strict=True) if answer is None]
    findings = [finding for answer in answers for finding in answer or ()]
    return await context.db.read(lambda tx: _view(tx, context, findings, silent))


async def _ask(context: Context, name: str) -> list[Finding] | None:
    """Return the differences of a backend from the record; None if it does not answer."""
    try:
        return await context.reconciler.look(name, ANSWER_WITHIN_S)
    except (DstackError, OSError) as error:
        log.warning("The backend %s does not list its machines: %s", context.backends.name_of(name), error)
    except Exception:  # a driver's bug must not hide the other backends
        log.exception("The backend %s does not list its machines", context.backends.name_of(name))
    return None


def _view(tx: Tx, context: Context, findings: Sequence[Finding], silent: list[str]) -> AuditView:
    name_of = context.backends.name_of
    found = [_found(tx, finding, name_of(finding.backend)) for finding in findings]
    claimed = [_claim(one, name_of(one.offer.backend_id), _use_of(tx, one)) for one in _claimed(tx, findings, silent)]
    return AuditView(machines=[*claimed, *found], silent=[name_of(id) for id in silent])


def _claimed(tx: Tx, findings: Sequence[Finding], silent: Sequence[str]) -> Iterator[Instance]:
    missing = {one.machine_id for one in findings if one.difference is Difference.MISSING}
    for instance in objects.live_instances(tx):
        known = instance.machine_id is not None and instance.machine_id not in missing
        if known and instance.offer.backend_id not in silent:
            yield instance


def _use_of(tx: Tx, instance: Instance) -> str:
    runs = {
        run.name for job in objects.unfinished_jobs_on(tx, instance.id) if (run := objects.find_run(tx, job.run_id))
    }
    return f"{instance.status}: {', '.join(sorted(runs))}" if runs else instance.status.value


def _claim(instance: Instance, backend: str, use: str) -> MachineView:
    return MachineView(
        backend=backend,
        machine_id=instance.machine_id or "",
        instance_id=instance.id,
        state="claimed",
        detail=use,
        price=instance.offer.price,
    )


def _found(tx: Tx, finding: Finding, backend: str) -> MachineView:
    instance = objects.find_instance(tx, finding.key)
    what = "its instance is given up" if finding.difference is Difference.MISSING else "it is ended"
    detail = f"seen since {utc_text(finding.since)}; {what} at {utc_text(finding.sure_at)} or soon after"
    return MachineView(
        backend=backend,
        machine_id=finding.machine_id,
        instance_id=finding.key,
        state=finding.difference.value,
        detail=detail,
        price=None if instance is None else instance.offer.price,
    )
