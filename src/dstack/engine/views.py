"""Views: all a step may look at, read in one transaction."""

from dstack.domain.objects import InstanceView, JobView, RunView
from dstack.domain.specs import configuration_in
from dstack.kit.ids import Ids
from dstack.protocol.statuses import RunStatus
from dstack.store import intents, objects
from dstack.store.tx import Tx


def run_view(tx: Tx, id: str, ids: Ids) -> RunView | None:
    """A run and the latest attempts of its jobs."""
    run = objects.find_run(tx, id)
    if run is None or run.status.is_finished():
        return None
    jobs = tuple(objects.jobs_of_run(tx, id))
    is_pending = run.status is RunStatus.PENDING
    new_ids = tuple(ids.new_id() for _ in jobs or configuration_in(run.spec).jobs()) if is_pending else ()
    return RunView(run, jobs, tx.clock.now(), new_ids)


def job_view(tx: Tx, id: str) -> JobView | None:
    """A job with its run, its instance, its gang and what came of its intents."""
    job = objects.find_job(tx, id)
    run = objects.find_run(tx, job.run_id) if job and not job.status.is_finished() else None
    if job is None or run is None:
        return None
    gang = objects.gang_of(tx, job)
    placed = [node.instance_id for node in gang if node.instance_id is not None]
    instances = objects.instances_by_id(tx, placed) if placed else {}
    return JobView(
        job=job,
        run=run,
        instance=instances.get(job.instance_id or ""),
        gang=tuple(gang),
        gang_instances=instances,
        outcomes=intents.outcomes_of(tx, "job", id),
        now=tx.clock.now(),
    )


def instance_view(tx: Tx, id: str) -> InstanceView | None:
    """An instance with its unfinished jobs and what came of its intents."""
    instance = objects.find_instance(tx, id)
    if instance is None or instance.finished_at is not None:
        return None
    jobs = tuple(objects.unfinished_jobs_on(tx, id))
    return InstanceView(instance, jobs, intents.outcomes_of(tx, "instance", id), tx.clock.now())
