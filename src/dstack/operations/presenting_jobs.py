"""Views of jobs and of their machines, each made of an object on record by one function."""

from collections.abc import Mapping, Sequence

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import describe
from dstack.domain.reports import expected_bytes
from dstack.domain.serving import replica_detail
from dstack.domain.specs import SERVICE
from dstack.protocol.agent import Layer
from dstack.protocol.runtimes import Runtime
from dstack.protocol.statuses import JobStatus
from dstack.protocol.views import AttemptView, InstanceView, JobView, PullView


def job_view(run: Run, job: Job, earlier: Sequence[Job], instances: Mapping[str, Instance]) -> JobView:
    """Return the latest attempt of a job.

    Args:
        run: its run.
        job: the attempt.
        earlier: the attempts before it.
        instances: the machines of all of them, by id.
    """
    instance = instances.get(job.instance_id or "")
    return JobView(
        id=job.id,
        replica=job.replica,
        node=job.node,
        attempt=job.attempt,
        revision=job.revision,
        status=job.status,
        reason=job.reason,
        detail=job.detail or replica_detail(job),
        exit_code=job.exit_code,
        signal=job.signal,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        instance=None if instance is None else instance_view(instance),
        ports=dict(job.ports),
        earlier=[_attempt_view(one, instances.get(one.instance_id or "")) for one in earlier],
        pull=_pull_view(job.report.layers) if job.status is JobStatus.PULLING and job.report else None,
        runtime=None if instance is None else Runtime.CONTAINER if job.share.container else Runtime.PROCESS,
        ready=job.is_ready if run.type == SERVICE else None,
        draining=job.draining_since is not None and not job.status.is_finished(),
    )


def _pull_view(layers: Sequence[Layer]) -> PullView | None:
    """Return the progress of an image pull; None without layers."""
    if not layers:
        return None
    return PullView(
        got_bytes=sum(layer.got_bytes for layer in layers),
        size_bytes=expected_bytes(layers),
        layers=len(layers),
        layers_ready=sum(layer.ready for layer in layers),
    )


def instance_view(instance: Instance) -> InstanceView:
    """Return one machine."""
    return InstanceView(
        id=instance.id,
        backend=instance.offer.backend,
        region=instance.offer.region,
        instance_type=instance.offer.instance_type,
        status=instance.status,
        hostname=instance.hostname,
        price=instance.offer.price,
        resources=describe(instance.offer_as_found.resources),
        detail=instance.why_resting,
        backend_name=instance.offer.backend_name,
    )


def _attempt_view(job: Job, instance: Instance | None) -> AttemptView:
    return AttemptView(
        id=job.id,
        attempt=job.attempt,
        revision=job.revision,
        status=job.status,
        reason=job.reason,
        detail=job.detail,
        exit_code=job.exit_code,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        instance_id=job.instance_id,
        price=None if instance is None else instance.offer.price,
    )
