"""What agents say, as facts on jobs and instances. Nothing is decided here."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from dstack.domain.intents import Done, StartJob
from dstack.domain.objects import Instance, Job
from dstack.hosts.inbox import Disowning, Strangers, Welcome
from dstack.kit.text import size_text
from dstack.logs.bounded import Loss
from dstack.protocol.agent import JobReport
from dstack.protocol.statuses import JobStatus
from dstack.store import commits, events, intents, objects
from dstack.store.tx import Tx

log = logging.getLogger(__name__)


def change_instance(tx: Tx, instance_id: str, change: Callable[[Instance, Tx], Instance]) -> None:
    """Write down what was learned of an instance that has not ended."""
    instance = objects.find_instance(tx, instance_id)
    if instance is None or instance.finished_at is not None:
        return
    changed = change(instance, tx)
    if changed != instance:
        commits.record(tx, changed)


def jobs_on(tx: Tx, instance_id: str) -> list[str]:
    """Return the ids of the unfinished jobs on an instance."""
    return [job.id for job in objects.unfinished_jobs_on(tx, instance_id)]


def store_welcome(tx: Tx, instance_id: str, welcome: Welcome) -> tuple[list[str], Strangers]:
    """Write down all that an agent has, and by silence what it has not.

    Returns its jobs that have not ended, and those that are not on record there.
    """

    def note(instance: Instance, tx: Tx) -> Instance:
        return replace(
            instance,
            host=welcome.resources,
            agent_seen_at=instance.agent_seen_at or tx.clock.now(),
            unreachable_since=None,
            # Why its agent did not start is over; why jobs did not start there is not.
            detail=instance.detail if instance.failed_starts or not instance.takes_jobs else "",
            ssh_port=welcome.ssh_port or instance.ssh_port,
            ssh_host_key=welcome.ssh_host_key or instance.ssh_host_key,
        )

    change_instance(tx, instance_id, note)
    strangers = store_reports(tx, instance_id, list(welcome.reports))
    known = {report.job_id for report in welcome.reports}
    unfinished = objects.unfinished_jobs_on(tx, instance_id)
    for job in unfinished:
        if job.id not in known and job.lost_at is None and _was_started(tx, job):
            commits.record(tx, replace(job, lost_at=tx.clock.now()))
        elif job.status is JobStatus.TERMINATING:
            # Its last log bytes could not come while the link was down: the wait for them begins anew.
            commits.record(tx, replace(job, status_since=tx.clock.now()))
    return [job.id for job in unfinished if job.id in known], strangers


def _was_started(tx: Tx, job: Job) -> bool:
    return isinstance(intents.outcomes_of(tx, "job", job.id).get(StartJob), Done)


def store_reports(tx: Tx, instance_id: str, reports: list[JobReport]) -> Strangers:
    """Write down the latest truth about some jobs. Returns those that are not on record there."""
    strangers = dict[str, Disowning]()
    by_id = {report.job_id: report for report in reports}
    jobs = {job.id: job for job in objects.jobs_by_id(tx, by_id)}
    for id, report in by_id.items():
        job = jobs.get(id)
        if job is None or job.instance_id != instance_id:
            log.warning("Instance %s reports the job %s, which is not on record there", instance_id, id)
            if (disowning := _disowning_of(report, job)) is not None:
                strangers[id] = disowning
        elif job.finished_at is None and job.report != report:
            commits.record(tx, replace(job, report=report, lost_at=None))
            _say_layers(tx, job, report)
            if report.layers or (report.state == "preparing" and report.message):
                # Clients that follow the run see how far the preparation is.
                tx.notices.changed.add(job.run_id)
    return strangers


def _disowning_of(report: JobReport, job: Job | None) -> Disowning | None:
    """Return what becomes of a job that the record does not have there, as after the loss of a database.

    One that still waits for its place may be placed there again: its end is then its own.
    """
    if report.state != "ended":
        return Disowning.STOP
    return Disowning.FORGET if job is None or job.finished_at is not None else None


def store_losses(tx: Tx, losses: Sequence[Loss]) -> None:
    """One event for each loss of log bytes."""
    jobs = {job.id: job for job in objects.jobs_by_id(tx, {loss.of[0] for loss in losses})}
    for loss in losses:
        if (job := jobs.get(loss.of[0])) is not None:
            lost = size_text(loss.lost_bytes)
            message = f"{lost} of the oldest output of {job.title} were dropped: {loss.why}"
            events.add(tx, job, actor="server", kind="job.log_lost", message=message)


def _say_layers(tx: Tx, job: Job, report: JobReport) -> None:
    """One event for each layer of an image that is complete by now."""
    ready_before = {layer.id for layer in job.report.layers if layer.ready} if job.report else set()
    ready = [layer for layer in report.layers if layer.ready]
    for number, layer in enumerate(ready, 1):
        if layer.id not in ready_before:
            size = f" ({size_text(layer.size_bytes)})" if layer.size_bytes else ""
            message = f"layer {layer.id}{size} is pulled, {number} of {len(report.layers)}"
            events.add(tx, job, actor="agent", kind="job.layer", message=message)


def projects_on(tx: Tx, instance_id: str) -> set[str]:
    """Return the ids of the projects that have a job on an instance."""
    return {job.project_id for job in objects.unfinished_jobs_on(tx, instance_id)}
