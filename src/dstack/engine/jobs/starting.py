"""PROVISIONING: the machine is chosen; hand the job over once it, and those of the other nodes, are ready."""

from dataclasses import replace

from dstack.domain.intents import Failed, StartJob
from dstack.domain.launches import after_failure
from dstack.domain.objects import Job, JobView, Next, Run
from dstack.domain.offers import NO_SHARE, gang_runtime, runtimes_for
from dstack.domain.specs import SERVICE, configuration_in
from dstack.engine.jobs.watching import end, follow_report
from dstack.errors import HostTrouble
from dstack.protocol.runtimes import Runtime
from dstack.protocol.statuses import InstanceReason, JobReason, JobStatus


def start(view: JobView) -> Next:
    """Start exactly once: the agent knows the job by its id."""
    job, instance = view.job, view.instance
    if job.stop_asked is not None:
        return end(view, job.stop_asked)
    if StartJob not in view.outcomes and _has_no_machine(view):
        return _back_to_queue(view)
    if instance is None or not instance.takes_jobs:
        view, counted = _with_failure(view)
        return _and(end(view, *_why_gone(view)), counted)
    match view.outcomes.get(StartJob):
        case None if not all(_is_ready(view, node.instance_id) for node in view.gang) or not _has_its_turn(view):
            return Next()
        case None:
            own = _in_gang_runtime(view)
            return Next(() if own == job else (own,), do=(StartJob(job.id, instance.id),))
        case Failed(HostTrouble() as error):
            return end(view, JobReason.HOST_ERROR, ". ".join(filter(None, (error.message, error.hint))))
        case Failed(error):
            return end(view, JobReason.EXECUTOR_ERROR, str(error.message))
        case _:
            return follow_report(view)


def _is_ready(view: JobView, instance_id: str | None) -> bool:
    instance = view.gang_instances.get(instance_id or "")
    return instance is not None and instance.is_ready


def _in_gang_runtime(view: JobView) -> Job:
    """Return the job with the runtime of its gang, now that their agents have found it."""
    job = view.job
    begun = next((node for node in view.gang if node.has_begun), None)
    if begun is not None:
        container = begun.share.container
    else:
        machines = [view.gang_instances[node.instance_id or ""].offer_as_found for node in view.gang]
        planned = Runtime.CONTAINER if job.share.container else Runtime.PROCESS
        if all(planned in runtimes_for(job.demand, machine) for machine in machines):
            return job
        # Without a common one the agents report what is missing.
        container = (gang_runtime(job.demand, machines) or planned) is Runtime.CONTAINER
    return replace(job, share=replace(job.share, container=container))


def _has_its_turn(view: JobView) -> bool:
    """Whether the nodes that are to start before this one run already, or have run."""
    master, *workers = view.gang
    match configuration_in(view.revision).startup_order:
        case "master-first" if view.job.node != 0:
            return master.has_begun
        case "workers-first" if view.job.node == 0:
            return all(worker.has_begun for worker in workers)
        case _:
            return True


def _has_no_machine(view: JobView) -> bool:
    """Whether the machine of this node, or of one that starts with it, is sold out, or its launch was not answered."""
    machines = view.gang_instances.values()
    return any(
        machine.reason in (InstanceReason.NO_OFFERS, InstanceReason.LAUNCH_TIMEOUT) for machine in machines
    ) or any(node.status is JobStatus.SUBMITTED for node in view.gang)


def _back_to_queue(view: JobView) -> Next:
    """Return to the old place there: the next offer may have what this one has not. All nodes go together.

    A run, or a replica of a service, that has tried too many offers waits, or ends.
    """
    view, counted = _with_failure(view)
    vain = view.job.launches if view.run.type == SERVICE else (*counted, view.run)[0].launches
    if vain is not None and vain.held_until(len(view.gang), view.now) is not None and view.instance is not None:
        return _and(end(view, JobReason.NO_CAPACITY, view.instance.detail), counted)
    queued = replace(view.job, status=JobStatus.SUBMITTED, status_since=view.now, instance_id=None, share=NO_SHARE)
    return Next((queued, *counted))


def _with_failure(view: JobView) -> tuple[JobView, tuple[Run, ...]]:
    """Return the view, and its run, with one more launch in vain, where the job's machine never started.

    Of the jobs on one machine, the first counts. Each replica of a service counts for itself.
    """
    instance = view.instance
    if instance is None or instance.agent_seen_at is not None or instance.takes_jobs:
        return view, ()
    is_sold_out = instance.reason is InstanceReason.NO_OFFERS
    if view.run.type == SERVICE:
        launches = after_failure(view.job.launches, view.now, is_sold_out=is_sold_out)
        return replace(view, job=replace(view.job, launches=launches)), ()
    first = next(node for node in view.gang if node.instance_id == instance.id)
    if first.id != view.job.id:
        return view, ()
    return view, (replace(view.run, launches=after_failure(view.run.launches, view.now, is_sold_out=is_sold_out)),)


def _and(decided: Next, more: tuple[Run, ...]) -> Next:
    return replace(decided, write=(*decided.write, *more))


def _why_gone(view: JobView) -> tuple[JobReason, str]:
    instance = view.instance
    if instance is None:
        return JobReason.EXECUTOR_ERROR, "its instance is not on record"
    return JobReason.INTERRUPTED, instance.detail
