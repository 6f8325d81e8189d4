"""Jobs in containers of the host's engine, any image as it is.

What a job prints goes into its pipe, which is mounted into the container, and from there into its log by a carrier. All
that is remembered is the file `container`: the engine knows the rest.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.containers.creation import program_of, working_dir_of
from dstack.agent.containers.making import Maker
from dstack.agent.containers.refusals import no_engine, refusal_of_start
from dstack.agent.containers.store import ImageStore
from dstack.agent.containers.watching import AWAY_MAX_S, SILENCE_MAX_S, Watch, is_half_started
from dstack.agent.notes import note
from dstack.agent.paths import JobFolder
from dstack.agent.records import Ending, KnownContainer, read_container, written_at
from dstack.agent.runtimes.base import Runtime, Spawn, Tell, Usages, keep_carried, write_start
from dstack.kit.clock import Clock
from dstack.protocol.agent import Container, JobOrder

log = logging.getLogger(__name__)

STARTS_AT_ONCE = 2 * (os.cpu_count() or 1)
"""More of them make each slower and none sooner."""

TRIES = 3
"""How often something is done anew that an engine broke off by going away."""

LEFT_MAX_S = 600.0
"""How long a container that cannot be removed, since the engine is away, waits for it; then the sweep removes it."""

T = TypeVar("T")


class ContainerRuntime(Runtime):
    """Runs jobs in containers."""

    def __init__(
        self,
        engine: ContainerEngine,
        clock: Clock,
        maker: Maker,
        images: ImageStore,
        spawn: Spawn,
        away_max_s: float = AWAY_MAX_S,
        silence_max_s: float = SILENCE_MAX_S,
    ) -> None:
        """Args:
        spawn: forks the carrier of a job that was started at a time, in seconds since the epoch.
        away_max_s: how long the engine may be away before its jobs are given up.
        silence_max_s: how long it may take to answer before it is taken to be away.
        """
        self._maker = maker
        self._engine = engine
        self._clock = clock
        self._images = images
        self._spawn = spawn
        self._away_max_s = away_max_s
        self._silence_max_s = silence_max_s
        self._watches: dict[str, Watch] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)

    def was_started(self, folder: JobFolder) -> bool:
        return folder.container.exists()

    def started_at(self, folder: JobFolder) -> float | None:
        known = read_container(folder)
        return written_at(folder.container) if known is None else known.started_at

    def working_dir(self, folder: JobFolder, order: JobOrder) -> str | None:
        known = read_container(folder)
        return None if known is None else known.working_dir

    async def prepare(self, folder: JobFolder, order: JobOrder, tell: Tell) -> None:
        """Have the image here."""

        def say(text: str) -> None:
            note(folder, self._clock, text)

        image = await self._outlast(folder, lambda: self._images.fetch(order.job_id, _container(order), tell, say))
        program_of(order, image)

    async def start(self, folder: JobFolder, order: JobOrder, started_at: float) -> None:
        """Whether it runs is seen by `wait`, which also outlasts an engine that goes away just now."""
        async with self._starts:
            id = await self._outlast(folder, lambda: self._make(folder, order, started_at))
            if folder.pipe.exists():
                await self._spawn(folder, started_at)
            with suppress(EngineAway):
                try:
                    await self._engine.call("POST", f"/containers/{id}/start")
                except EngineRefused as refusal:
                    if not is_half_started(refusal.message):  # else `wait` sees what has become of it
                        raise refusal_of_start(_container(order), refusal.message) from None
        note(folder, self._clock, f"started container {id[:12]}")

    async def _make(self, folder: JobFolder, order: JobOrder, started_at: float) -> str:
        """Make the job's container, and write it down. Returns its id."""
        container = _container(order)
        image = await self._images.find(container)
        try:
            made = await self._maker.make(folder, order, container, image)
        except EngineRefused as refusal:
            raise refusal_of_start(container, refusal.message) from None
        missing, place = program_of(order, image).missing, working_dir_of(order, image)
        known = KnownContainer(made.id, started_at, made.uid, made.gid, image.id, missing, place, time.monotonic())
        # Without it the container would be taken for one that was never started.
        await asyncio.to_thread(write_start, folder, folder.container, asdict(known))
        return made.id

    async def _outlast(self, folder: JobFolder, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be done anew, also where the engine goes away meanwhile and comes back.

        Raises:
            AgentRefused: it does not come back, or goes away again and again.
        """
        for _ in range(TRIES):
            try:
                return await work()
            except EngineRefused as refusal:
                raise no_engine(refusal) from None
            except EngineAway as error:
                why = error
                note(folder, self._clock, f"the container engine went away ({error}); waiting for it")
                if not await self._engine.is_back(self._away_max_s):
                    break
        raise no_engine(why)

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        watch = Watch(self._engine, self._clock, folder, order, self._away_max_s, self._silence_max_s)
        self._watches[folder.job_id] = watch
        started_at = self.started_at(folder) or 0.0
        carried = asyncio.create_task(keep_carried(folder, started_at, self._spawn), name=f"carrier of {folder.job_id}")
        try:
            ending = await watch.run()
        finally:
            carried.cancel()
            self._watches.pop(folder.job_id, None)
        if (known := read_container(folder)) is not None:
            # Before the end is told: then the job's folder may go at any moment.
            await self._maker.open_up(folder, known.image)
        return ending

    def stop(self, folder: JobFolder) -> None:
        if (watch := self._watches.get(folder.job_id)) is not None:
            watch.stop_asked.set()

    def described(self, folder: JobFolder) -> Mapping[str, Any] | None:
        watch = self._watches.get(folder.job_id)
        return None if watch is None else watch.described

    def living(self, folder: JobFolder) -> set[int]:
        watch = self._watches.get(folder.job_id)
        return set() if watch is None else watch.living()

    def usage(self, folders: Sequence[JobFolder]) -> Usages:
        """From the files of the containers' control groups.

        Where this host does not see those (the engine is in a virtual machine, or we are in a container ourselves)
        nothing is told: the engine's own statistics take a second for each container, and more of its time than that
        of many jobs is worth.
        """
        watches = ((folder.job_id, self._watches.get(folder.job_id)) for folder in folders)
        groups = ((id, watch.control_group()) for id, watch in watches if watch is not None)
        return {id: group.read() for id, group in groups if group is not None}

    async def clean_up(self, folder: JobFolder) -> None:
        known = read_container(folder)  # the folder may be gone after the wait
        if not await self._maker.remove(folder.job_id) and await self._engine.is_back(LEFT_MAX_S):
            await self._maker.remove(folder.job_id)
        self._images.release(folder.job_id, None if known is None else known.image)

    async def sweep(self, unfinished: Callable[[], Collection[str]]) -> None:
        """Remove containers of jobs that are over, and images that no job has used for long."""
        try:
            await self._maker.sweep(unfinished)
            await self._images.clean(log.info)
        except (EngineAway, EngineRefused) as error:
            log.info("Containers and images are swept later: %s", error)


def _container(order: JobOrder) -> Container:
    assert order.container is not None
    return order.container
