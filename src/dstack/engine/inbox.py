"""What agents say, written down: reports become facts on jobs, log bytes go to the log store.

Nothing is decided here.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from dstack.blobs.base import BlobStore
from dstack.domain.intents import Done, StartJob
from dstack.domain.objects import Instance, Job
from dstack.domain.reports import size_text
from dstack.engine.leases import Leases
from dstack.hosts.link import Welcome
from dstack.kit.signals import Signals
from dstack.logs.base import LogStore
from dstack.protocol.agent import LOG_STREAMS, JobReport
from dstack.protocol.statuses import JobStatus
from dstack.store import commits, events, intents, objects
from dstack.store.db import Database
from dstack.store.tx import Tx

T = TypeVar("T")
log = logging.getLogger(__name__)


class EngineInbox:
    """Hears all agents (`dstack.hosts.link.Inbox`)."""

    def __init__(
        self,
        db: Database,
        leases: Leases,
        logs: LogStore,
        blobs: BlobStore,
        signals: Signals,
        when_silent: Callable[[], None] = lambda: None,
    ) -> None:
        """Args: `when_silent`: called whenever a link breaks."""
        self._when_silent = when_silent
        self._db = db
        self._leases = leases
        self._logs = logs
        self._blobs = blobs
        self._signals = signals

    async def _write(self, instance_id: str, function: Callable[[Tx], T]) -> T:
        """Write, unless another server sees to the instance by now: what this one hears may be old."""

        def write(tx: Tx) -> T:
            self._leases.check(tx, instance_id)
            return function(tx)

        return await self._db.write(write)

    async def welcomed(self, instance_id: str, welcome: Welcome) -> dict[tuple[str, str], int]:
        """Everything the agent has, and by silence what it has not. Logs are wanted of jobs that have not ended."""
        job_ids = await self._write(instance_id, lambda tx: _store_welcome(tx, instance_id, welcome))
        return await asyncio.to_thread(
            lambda: {(id, stream): self._logs.size(id, stream) for id in job_ids for stream in LOG_STREAMS}
        )

    async def disconnected(self, instance_id: str) -> None:
        """The link is down; since when is written once."""
        self._when_silent()

        def note(instance: Instance, tx: Tx) -> Instance:
            return instance if instance.unreachable_since else replace(instance, unreachable_since=tx.clock.now())

        await self._write(instance_id, lambda tx: _change_instance(tx, instance_id, note))

    async def reported(self, instance_id: str, reports: list[JobReport]) -> None:
        """Store the latest truth about some jobs."""
        await self._write(instance_id, lambda tx: _store_reports(tx, instance_id, reports))

    async def logged(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        """Store log bytes and wake who reads along."""
        stored = await asyncio.to_thread(self._logs.append, job_id, stream, offset, at, data)
        self._signals.notify([job_id])
        self._db.announce(job_id)
        return stored

    async def ssh_ready(self, instance_id: str, port: int, host_key: str) -> None:
        """The way in is open."""

        def note(instance: Instance, tx: Tx) -> Instance:
            return replace(instance, ssh_port=port, ssh_host_key=host_key)

        await self._write(instance_id, lambda tx: _change_instance(tx, instance_id, note))

    async def blob(self, hash: str) -> bytes | None:
        """A piece of the files that a job needs."""
        return await asyncio.to_thread(self._blobs.get, hash)


def _change_instance(tx: Tx, instance_id: str, change: Callable[[Instance, Tx], Instance]) -> None:
    instance = objects.find_instance(tx, instance_id)
    if instance is None or instance.finished_at is not None:
        return
    changed = change(instance, tx)
    if changed != instance:
        commits.record(tx, changed)


def _store_welcome(tx: Tx, instance_id: str, welcome: Welcome) -> list[str]:
    def note(instance: Instance, tx: Tx) -> Instance:
        return replace(
            instance,
            agent_seen_at=instance.agent_seen_at or tx.clock.now(),
            unreachable_since=None,
            ssh_port=welcome.ssh_port or instance.ssh_port,
            ssh_host_key=welcome.ssh_host_key or instance.ssh_host_key,
        )

    _change_instance(tx, instance_id, note)
    _store_reports(tx, instance_id, list(welcome.reports))
    known = {report.job_id for report in welcome.reports}
    unfinished = objects.unfinished_jobs_on(tx, instance_id)
    for job in unfinished:
        if job.id not in known and job.lost_at is None and _was_started(tx, job):
            commits.record(tx, replace(job, lost_at=tx.clock.now()))
        elif job.status is JobStatus.TERMINATING:
            # Its last log bytes could not come while the link was down: the wait for them begins anew.
            commits.record(tx, replace(job, status_since=tx.clock.now()))
    return [job.id for job in unfinished if job.id in known]


def _was_started(tx: Tx, job: Job) -> bool:
    return isinstance(intents.outcomes_of(tx, "job", job.id).get(StartJob), Done)


def _store_reports(tx: Tx, instance_id: str, reports: list[JobReport]) -> None:
    by_id = {report.job_id: report for report in reports}
    jobs = {job.id: job for job in objects.jobs_by_id(tx, by_id)}
    for id, report in by_id.items():
        job = jobs.get(id)
        if job is None or job.instance_id != instance_id:
            log.warning("Instance %s reports the job %s, which is not on record there", instance_id, id)
        elif job.finished_at is None and job.report != report:
            commits.record(tx, replace(job, report=report, lost_at=None))
            _say_layers(tx, job, report)


def _say_layers(tx: Tx, job: Job, report: JobReport) -> None:
    """One event for each layer of an image that is complete by now."""
    ready_before = {layer.id for layer in job.report.layers if layer.ready} if job.report else set()
    ready = [layer for layer in report.layers if layer.ready]
    for number, layer in enumerate(ready, 1):
        if layer.id not in ready_before:
            size = f" ({size_text(layer.size_bytes)})" if layer.size_bytes else ""
            message = f"layer {layer.id}{size} is here, {number} of {len(report.layers)}"
            events.add(tx, job, actor="agent", kind="job.layer", message=message)
