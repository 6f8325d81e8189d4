"""The metrics of jobs for the API."""

from datetime import UTC, datetime

from dstack.domain.objects import Instance, Job
from dstack.errors import ResourceNotExistsError
from dstack.operations.context import Action, Context
from dstack.operations.runs import get_run
from dstack.protocol.agent import Gpu, Point
from dstack.protocol.jobs import no_job_text
from dstack.protocol.metrics import CardView, GpuMetricsView, MetricsPointView, MetricsView
from dstack.store import metrics, objects
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
