"""Jobs in containers of the host's engine, any image as it is.

What a job prints goes straight into its log file, which is mounted into the container. All that is remembered is the
file `container`: the engine knows the rest.
"""

import asyncio
import logging
import os
from collections.abc import Collection, Sequence

from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.containers.creation import program_of, working_dir_of
from dstack.agent.containers.making import FindCards, Maker
from dstack.agent.containers.store import ImageStore
from dstack.agent.containers.watching import Watch
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder, read_json, write_json
from dstack.agent.runtimes.base import Runtime, Tell, Usages
from dstack.agent.supervisor import Ending
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock
from dstack.protocol.agent import Container, JobOrder

log = logging.getLogger(__name__)

STARTS_AT_ONCE = 2 * (os.cpu_count() or 1)
"""More of them make each slower and none sooner."""

NO_ENGINE_HINT = "Start Docker or Podman on the machine (Debian: `apt install docker.io`), or leave `image` out"


class ContainerRuntime(Runtime):
    """Runs jobs in containers."""

    def __init__(self, home: Home, engine: ContainerEngine, clock: Clock, cards: FindCards) -> None:
        self._maker = Maker(home, engine, cards)
        self._engine = engine
        self._clock = clock
        self._images = ImageStore(home.images, engine)
        self._watches: dict[str, Watch] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)

    def was_started(self, folder: JobFolder) -> bool:
        return folder.container.exists()

    def started_at(self, folder: JobFolder) -> float | None:
        return (read_json(folder.container) or {}).get("started_at")

    def working_dir(self, folder: JobFolder, order: JobOrder) -> str | None:
        return (read_json(folder.container) or {}).get("working_dir")

    async def prepare(self, folder: JobFolder, order: JobOrder, tell: Tell) -> None:
        """Have the image here."""
        try:
            image = await self._images.fetch(_container(order), tell, lambda text: note(folder, self._clock, text))
        except (EngineAway, EngineRefused) as error:
            raise _no_engine(error) from None
        program_of(order, image)

    async def start(self, folder: JobFolder, order: JobOrder, started_at: float) -> None:
        container = _container(order)
        async with self._starts:
            try:
                image = await self._images.find(container)
                made = await self._maker.make(folder, order, container, image)
                known = {"id": made.id, "started_at": started_at, "uid": made.uid, "gid": made.gid}
                known |= {"missing": program_of(order, image).missing, "working_dir": working_dir_of(order, image)}
                write_json(folder.container, known)
                await self._engine.call("POST", f"/containers/{made.id}/start")
            except EngineRefused as refusal:
                raise _refusal_of_start(container, refusal) from None
            except EngineAway as error:
                raise _no_engine(error) from None
        note(folder, self._clock, f"started container {made.id[:12]}")

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        watch = self._watches[folder.job_id] = Watch(self._engine, self._clock, folder, order)
        try:
            return await watch.run()
        finally:
            self._watches.pop(folder.job_id, None)

    def stop(self, folder: JobFolder) -> None:
        if (watch := self._watches.get(folder.job_id)) is not None:
            watch.stop_asked.set()

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
        try:
            await self._maker.remove(folder.job_id)
        except (EngineAway, EngineRefused) as error:
            log.warning("The container of job %s is removed later: %s", folder.job_id, error)

    async def sweep(self, unfinished: Collection[str]) -> None:
        """Remove what was left behind: containers of jobs that are over.

        Args:
            unfinished: the jobs whose containers stay.
        """
        await self._maker.sweep(unfinished)


def _container(order: JobOrder) -> Container:
    assert order.container is not None
    return order.container


def _no_engine(error: EngineAway | EngineRefused) -> AgentRefused:
    return AgentRefused(f"The container engine of the machine does not answer: {error}", hint=NO_ENGINE_HINT)


def _refusal_of_start(container: Container, refusal: EngineRefused) -> AgentRefused:
    said = refusal.message
    if "unable to find user" in said or "unable to find group" in said or "no matching entries in passwd" in said:
        return AgentRefused(
            f"There is no user `{container.user}` in the image: {said}", hint="Name one of its users, or a number"
        )
    if "could not select device driver" in said:
        return AgentRefused(
            f"The container engine of the machine cannot give GPUs to containers: {said}",
            hint="Install NVIDIA's container toolkit on the machine",
        )
    if "no space left" in said:
        return AgentRefused(f"The disk of the machine is full: {said}", hint="Ask for more `disk`")
    return AgentRefused(f"The container could not be started: {said}")
