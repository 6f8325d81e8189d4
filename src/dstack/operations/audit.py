"""What every backend has, and who claims it: for whoever pays."""

from collections.abc import Sequence

from dstack.domain.objects import Instance
from dstack.domain.reconciling import Difference, Finding
from dstack.errors import DstackError, ForbiddenError
from dstack.operations.context import Context
from dstack.protocol.views import AuditView, MachineView
from dstack.store import objects
from dstack.store.tx import Tx
from dstack.store.users import User


async def audit(context: Context, user: User) -> AuditView:
    """Ask all backends now. Nothing is done about what is found: the reconciler does that by itself.

    Raises:
        ForbiddenError: the user is no admin of the server.
    """
    if not user.is_admin:
        raise ForbiddenError("Only an admin of the server may see the machines of all projects")
    findings: list[Finding] = []
    silent: list[str] = []
    for name in sorted(context.backends):
        try:
            findings += await context.reconciler.look(name)
        except (DstackError, OSError, TimeoutError):
            silent.append(name)
    claimed = await context.db.read(lambda tx: _claimed(tx, findings, silent))
    found = [_found(finding) for finding in findings]
    return AuditView(machines=[*claimed, *found], silent=silent)


def _claimed(tx: Tx, findings: Sequence[Finding], silent: Sequence[str]) -> list[MachineView]:
    missing = {one.machine_id for one in findings if one.difference is Difference.MISSING}
    views = []
    for instance in objects.live_instances(tx):
        known = instance.machine_id is not None and instance.machine_id not in missing
        if known and instance.offer.backend not in silent:
            views.append(_view(instance, _use_of(tx, instance)))
    return views


def _use_of(tx: Tx, instance: Instance) -> str:
    runs = {
        run.name for job in objects.unfinished_jobs_on(tx, instance.id) if (run := objects.find_run(tx, job.run_id))
    }
    return f"{instance.status}: {', '.join(sorted(runs))}" if runs else instance.status.value


def _view(instance: Instance, use: str) -> MachineView:
    return MachineView(
        backend=instance.offer.backend,
        machine_id=instance.machine_id or "",
        instance_id=instance.id,
        state="claimed",
        detail=use,
        price=instance.offer.price,
    )


def _found(finding: Finding) -> MachineView:
    what = "its instance is given up" if finding.difference is Difference.MISSING else "it is ended"
    detail = f"seen since {finding.since:%H:%M:%S} UTC; {what} at {finding.sure_at:%H:%M:%S} UTC or soon after"
    return MachineView(
        backend=finding.backend,
        machine_id=finding.machine_id,
        instance_id=finding.key,
        state=finding.difference.value,
        detail=detail,
        price=None,
    )
