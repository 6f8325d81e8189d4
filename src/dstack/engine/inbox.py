"""What agents say, written down: reports become facts on jobs, log bytes go to the log store.

Nothing is decided here.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from dstack.blobs.base import BlobStore
from dstack.domain.objects import Instance
from dstack.engine import facts
from dstack.engine.leases import Leases
from dstack.engine.measurements import Measurements
from dstack.hosts.inbox import Strangers, Welcome
from dstack.kit.signals import Signals
from dstack.logs.bounded import BoundedLogs, Stored
from dstack.logs.gaps import Gap
from dstack.protocol.agent import LOG_STREAMS, Engine, JobReport, LogGap, Point
from dstack.store.db import Database
from dstack.store.tx import Tx

T = TypeVar("T")


class EngineInbox:
    """Hears all agents (`dstack.hosts.inbox.Inbox`)."""

    def __init__(
        self,
        db: Database,
        leases: Leases,
        logs: BoundedLogs,
        blobs: BlobStore,
        signals: Signals,
        measurements: Measurements,
        when_silent: Callable[[], None] = lambda: None,
    ) -> None:
        """Args: `when_silent`: called whenever a link breaks."""
        self._when_silent = when_silent
        self._db = db
        self._leases = leases
        self._logs = logs
        self._blobs = blobs
        self._signals = signals
        self._measurements = measurements

    async def _write(self, instance_id: str, function: Callable[[Tx], T]) -> T:
        """Write, unless another server sees to the instance by now: what this one hears may be old."""

        def write(tx: Tx) -> T:
            self._leases.check(tx, instance_id)
            return function(tx)

        return await self._db.write(write)

    async def jobs_on(self, instance_id: str) -> Collection[str]:
        """Return the jobs of which the agent may report as much as it likes."""
        return await self._db.recall(lambda tx: facts.jobs_on(tx, instance_id))

    async def welcomed(self, instance_id: str, welcome: Welcome) -> tuple[dict[tuple[str, str], int], Strangers]:
        """Everything the agent has, and by silence what it has not. Logs are wanted of jobs that have not ended."""
        job_ids, strangers = await self._write(instance_id, lambda tx: facts.store_welcome(tx, instance_id, welcome))
        wanted = await asyncio.to_thread(
            lambda: {(id, stream): self._logs.size((id, stream)) for id in job_ids for stream in LOG_STREAMS}
        )
        return wanted, strangers

    async def disconnected(self, instance_id: str) -> None:
        """The link is down; since when is written once."""
        self._when_silent()

        def note(instance: Instance, tx: Tx) -> Instance:
            return instance if instance.unreachable_since else replace(instance, unreachable_since=tx.clock.now())

        await self._write(instance_id, lambda tx: facts.change_instance(tx, instance_id, note))

    async def not_started(self, instance_id: str, why: str) -> None:
        """Have people see why the agent does not answer, until it does."""

        def note(instance: Instance, tx: Tx) -> Instance:
            return replace(instance, detail=why) if instance.takes_jobs else instance

        await self._write(instance_id, lambda tx: facts.change_instance(tx, instance_id, note))

    async def reported(self, instance_id: str, reports: list[JobReport]) -> Strangers:
        """Store the latest truth about some jobs."""
        return await self._write(instance_id, lambda tx: facts.store_reports(tx, instance_id, reports))

    async def logged(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        """Store log bytes and wake who reads along."""
        stored = await asyncio.to_thread(self._logs.append, (job_id, stream), offset, at, data)
        return await self._tell(job_id, stored)

    async def lost(self, job_id: str, stream: str, gap: LogGap) -> int:
        """Remember what will never come, and wake who reads along."""
        stored = await asyncio.to_thread(self._logs.skip, (job_id, stream), Gap(gap.offset, gap.end), gap.at)
        return await self._tell(job_id, stored)

    async def _tell(self, job_id: str, stored: Stored) -> int:
        self._signals.notify([job_id])
        self._db.announce(job_id)
        if news := [loss for loss in stored.losses if loss.is_news]:
            await self._db.write(lambda tx: facts.store_losses(tx, news))
        return stored.size

    def measured(self, instance_id: str, points: Mapping[str, Sequence[Point]]) -> None:
        """Have points stored, sooner or later."""
        self._measurements.take(instance_id, points)

    async def ssh_ready(self, instance_id: str, port: int, host_key: str) -> None:
        """The way in is open."""

        def note(instance: Instance, tx: Tx) -> Instance:
            return replace(instance, ssh_port=port, ssh_host_key=host_key)

        await self._write(instance_id, lambda tx: facts.change_instance(tx, instance_id, note))

    async def engine_found(self, instance_id: str, engine: Engine) -> None:
        """Containers can be run there from now on."""

        def note(instance: Instance, tx: Tx) -> Instance:
            found = instance.host or instance.offer.resources
            return replace(instance, host=replace(found, engine=engine, engine_problem=""))

        await self._write(instance_id, lambda tx: facts.change_instance(tx, instance_id, note))

    async def blob(self, instance_id: str, hash: str) -> bytes | None:
        """Return a piece of the files that a job on the instance needs; None if no project with a job there has it."""
        owners = await self._db.read(lambda tx: facts.projects_on(tx, instance_id))
        return await asyncio.to_thread(self._blobs.find, owners, hash)
