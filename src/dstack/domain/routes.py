"""The route of a service: which of its replicas take requests."""

from collections.abc import Callable, Iterable

from dstack.domain.models import model_of
from dstack.domain.objects import Job, Run
from dstack.domain.replicas import is_unwanted
from dstack.domain.serving import starts, waits_for
from dstack.domain.specs import configuration_in
from dstack.protocol.proxy import Limit, Replica, Service, Target, Tcp
from dstack.protocol.statuses import JobStatus
from dstack.spec.service import HeaderKey, RateLimit
from dstack.spec.service import Service as ServiceSpec


def at_its_address(job: Job, port: int) -> Target:
    """Return the way to a replica on the data plane's own machine."""
    report = job.report
    return Tcp("127.0.0.1" if report is None or report.address is None else report.address, port)


def service_of(
    run: Run, project: str, jobs: Iterable[Job], target_of: Callable[[Job, int], Target] = at_its_address
) -> Service:
    """Return the route of a run of type `service`.

    Args:
        project: the name of its project.
        jobs: the latest attempt of each replica.
        target_of: returns the way to the port of a replica.
    """
    spec, jobs = configuration_in(run.current), tuple(jobs)
    assert isinstance(spec, ServiceSpec)

    def replica(job: Job) -> Replica:
        port = None if job.report is None else job.report.port
        return Replica(job.id, job.replica, target_of(job, port or spec.port.container_port))

    ready = tuple(replica(job) for job in jobs if job.is_ready and job.stop_asked is None)
    draining = tuple(replica(job) for job in jobs if job.status is JobStatus.RUNNING and is_unwanted(job))
    return Service(
        id=run.id,
        project=project,
        name=run.name,
        auth=spec.auth,
        strip_prefix=spec.strip_prefix,
        limits=tuple(_limit_of(limit) for limit in spec.rate_limits),
        model=model_of(spec, run.submitted_at),
        replicas=ready,
        draining=draining,
        waits_for="" if ready else waits_for(run, jobs),
        starts=not ready and starts(run, jobs),
    )


def _limit_of(limit: RateLimit) -> Limit:
    header = limit.key.header if isinstance(limit.key, HeaderKey) else None
    return Limit(limit.prefix, limit.rps, limit.burst, header)
