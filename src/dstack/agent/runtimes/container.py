"""Jobs in containers of the host's engine, any image as it is.

What a job prints goes straight into its log file, which is mounted into the container. All that is remembered is the
file `container`: the engine knows the rest.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TypeVar

from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.containers.creation import HOME_LABEL, JOB_LABEL, creation, program_of
from dstack.agent.containers.mounted import give_files, lay_out
from dstack.agent.containers.refusals import no_engine, refusal_of_start
from dstack.agent.containers.store import ImageStore
from dstack.agent.containers.watching import AWAY_MAX_S, Watch
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder, read_json, write_json
from dstack.agent.runtimes.base import Runtime, Tell
from dstack.agent.supervisor import Ending
from dstack.kit.clock import Clock
from dstack.protocol.agent import Container, JobOrder

log = logging.getLogger(__name__)

STARTS_AT_ONCE = 2 * (os.cpu_count() or 1)
"""More of them make each slower and none sooner."""

REMOVAL = {"force": 1, "v": 1}

TRIES = 3
"""How often something is done anew that an engine broke off by going away."""

T = TypeVar("T")


class ContainerRuntime(Runtime):
    """Runs jobs in containers."""

    def __init__(
        self, home: Home, engine: ContainerEngine, clock: Clock, images: ImageStore, away_max_s: float = AWAY_MAX_S
    ) -> None:
        """Args: `away_max_s`: how long the engine may be away before its jobs are given up."""
        self._home = home
        self._engine = engine
        self._clock = clock
        self._images = images
        self._away_max_s = away_max_s
        self._watches: dict[str, Watch] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self._label = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:16]

    def was_started(self, folder: JobFolder) -> bool:
        return folder.container.exists()

    def started_at(self, folder: JobFolder) -> float | None:
        return (read_json(folder.container) or {}).get("started_at")

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
            with suppress(EngineAway):
                try:
                    await self._engine.call("POST", f"/containers/{id}/start")
                except EngineRefused as refusal:
                    raise refusal_of_start(_container(order), refusal.message) from None
        note(folder, self._clock, f"started container {id[:12]}")

    async def _make(self, folder: JobFolder, order: JobOrder, started_at: float) -> str:
        """Make the job's container with all that is mounted into it, and write it down. Returns its id."""
        container = _container(order)
        image = await self._images.find(container)
        await asyncio.to_thread(lay_out, folder, order, self._home.launcher)
        body = creation(order, image, folder, {HOME_LABEL: self._label}, self._home.launcher)
        try:
            id = await self._create(_name(order.job_id), body)
            uid, gid = await give_files(self._engine, folder, id, container.user or image.user)
        except EngineRefused as refusal:
            raise refusal_of_start(container, refusal.message) from None
        known = {"id": id, "started_at": started_at, "uid": uid, "gid": gid, "image": image.id}
        write_json(folder.container, {**known, "missing": program_of(order, image).missing})
        return id

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

    async def _create(self, name: str, body: dict[str, object]) -> str:
        try:
            return str((await self._engine.call("POST", "/containers/create", body, query={"name": name}))["Id"])
        except EngineRefused as refusal:
            if refusal.status != 409:
                raise
        # An earlier agent made it and died; it was never started, or else this one would not be here.
        await self._engine.call("DELETE", f"/containers/{name}", query=REMOVAL)
        return str((await self._engine.call("POST", "/containers/create", body, query={"name": name}))["Id"])

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        watch = self._watches[folder.job_id] = Watch(self._engine, self._clock, folder, order, self._away_max_s)
        try:
            return await watch.run()
        finally:
            self._watches.pop(folder.job_id, None)

    def stop(self, folder: JobFolder) -> None:
        if (watch := self._watches.get(folder.job_id)) is not None:
            watch.stop_asked.set()

    async def clean_up(self, folder: JobFolder) -> None:
        await self._remove(_name(folder.job_id))
        self._images.release(folder.job_id, (read_json(folder.container) or {}).get("image"))

    async def sweep(self, unfinished: Callable[[], Collection[str]]) -> None:
        """Remove containers of jobs that are over, and images that no job has used for long."""
        try:
            filters = f'{{"label":["{HOME_LABEL}={self._label}"]}}'
            for one in await self._engine.call("GET", "/containers/json", query={"all": 1, "filters": filters}):
                # Asked only now: a job is known before its container is made.
                if one["Labels"].get(JOB_LABEL) not in unfinished():
                    await self._remove(one["Id"])
            await self._images.clean(log.info)
        except (EngineAway, EngineRefused) as error:
            log.info("Containers and images are swept later: %s", error)

    async def _remove(self, container: str) -> None:
        try:
            await self._engine.call("DELETE", f"/containers/{container}", query=REMOVAL)
        except (EngineAway, EngineRefused) as error:
            if not isinstance(error, EngineRefused) or error.status != 404:
                log.warning("The container %s is removed later: %s", container, error)


def _name(job_id: str) -> str:
    return f"dstack-{job_id}"


def _container(order: JobOrder) -> Container:
    assert order.container is not None
    return order.container
