"""The metrics of jobs, and the traffic of services, for the API."""

from collections.abc import Sequence
from datetime import UTC, datetime

from dstack.domain.objects import Instance, Job
from dstack.domain.traffic import Traffic, course_of
from dstack.errors import InvalidRequestError, ResourceNotExistsError
from dstack.operations.context import Action, Context
from dstack.operations.runs import get_run
from dstack.protocol.agent import Gpu, Point
from dstack.protocol.jobs import no_job_text
from dstack.protocol.metrics import (
    CardView,
    GpuMetricsView,
    MetricsPointView,
    MetricsView,
    TrafficHistoryView,
    TrafficPointView,
)
from dstack.store import metrics, objects, traffic
from dstack.store.tx import Tx
from dstack.store.users import User


async def read_metrics(
    context: Context, user: User, project: str, run: str, *, replica: int, node: int, start: datetime | None
) -> MetricsView:
    """Return the metrics of a job's latest attempt: of its last hour, or after `start`.

    Raises:
        ResourceNotExistsError: there is no such run, or it has no such job.
    """

    def read(tx: Tx) -> MetricsView:
        found = get_run(tx, user, project, run, Action.READ)
        jobs = objects.jobs_of_run(tx, found.id)
        job = next((one for one in jobs if (one.replica, one.node) == (replica, node)), None)
        if job is None:
            known = [(one.replica, one.node) for one in jobs]
            raise ResourceNotExistsError(no_job_text(found.name, replica, node, known))
        instance = objects.find_instance(tx, job.instance_id) if job.instance_id else None
        points = [one for one in metrics.read(tx, job.id) if start is None or one.at > start.timestamp()]
        return metrics_view(job, instance, points)

    return await context.db.read(read)


async def read_traffic(
    context: Context, user: User, project: str, run: str, *, start: datetime | None
) -> TrafficHistoryView:
    """Return the traffic of a service: of its last hour, or after `start`.

    Raises:
        ResourceNotExistsError: there is no such run.
        InvalidRequestError: the run is not a service.
    """

    def read(tx: Tx) -> TrafficHistoryView:
        found = get_run(tx, user, project, run, Action.READ)
        if found.type != "service":
            raise InvalidRequestError(
                f"The run `{found.name}` is a {found.type}: it has no traffic",
                hint=f"`dstack metrics {found.name}` shows the usage of its jobs",
            )
        end = found.finished_at or tx.clock.now()
        begin = max(found.submitted_at, end - traffic.KEEP, start or found.submitted_at)
        histories = traffic.read(tx, [found.id], begin).get(found.id, [])
        jobs = objects.attempts_of_runs(tx, [found.id]).get(found.id, {})
        attempts = [attempt for of_job in jobs.values() for attempt in of_job]
        course = course_of(histories, begin.timestamp(), end.timestamp())
        return TrafficHistoryView(points=[_traffic_point_view(point, attempts) for point in course])

    return await context.db.read(read)


def _traffic_point_view(point: Traffic, attempts: Sequence[Job]) -> TrafficPointView:
    at = datetime.fromtimestamp(point.at, UTC)
    running = [one for one in attempts if one.started_at is not None and one.started_at <= at]
    return TrafficPointView(
        at=at,
        requests_per_s=point.requests_per_s,
        errors_per_s=point.errors_per_s,
        in_flight=point.in_flight,
        held=point.held,
        latency_p50_s=point.latency_p50_s,
        latency_p95_s=point.latency_p95_s,
        replicas=sum(one.finished_at is None or one.finished_at > at for one in running),
    )


def metrics_view(job: Job, instance: Instance | None, points: list[Point]) -> MetricsView:
    """Return the usage of a job and its limits: those of its container, else of its machine."""
    machine = instance.offer_as_found.resources if instance else None
    cards = machine.gpus if machine else ()
    cpus, memory = job.demand.cpus, job.demand.memory_mib
    is_limited = job.share.container
    of_machine = (machine.cpus, machine.memory_mib) if machine else (None, None)
    return MetricsView(
        job_id=job.id,
        replica=job.replica,
        node=job.node,
        attempt=job.attempt,
        cpu_cores=cpus.max if is_limited and cpus.written and cpus.max else of_machine[0],
        memory_mib=memory.max if is_limited and memory.written and memory.max else of_machine[1],
        gpus=[_card_view(cards[index]) for index in job.share.gpus if index < len(cards)],
        points=[_point_view(point) for point in points],
    )


def _card_view(card: Gpu) -> CardView:
    return CardView(name=card.name, memory_mib=card.memory_mib)


def _point_view(point: Point) -> MetricsPointView:
    return MetricsPointView(
        at=datetime.fromtimestamp(point.at, UTC),
        cpu_cores=point.cpu_cores,
        memory_mib=point.memory_mib,
        gpus=[
            GpuMetricsView(utilization_percent=card.utilization_percent, memory_mib=card.memory_mib)
            for card in point.gpus
        ],
    )
