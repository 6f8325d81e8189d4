"""Jobs in containers of the host's engine, any image as it is.

What a job prints goes straight into its log file, which is mounted into the container. All that is remembered is the
file `container`: the engine knows the rest.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Collection

from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.containers.creation import HOME_LABEL, JOB_LABEL, creation, program_of, working_dir_of
from dstack.agent.containers.mounted import give_files, lay_out
from dstack.agent.containers.store import ImageStore
from dstack.agent.containers.watching import Watch
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder, read_json, write_json
from dstack.agent.runtimes.base import Runtime, Tell
from dstack.agent.supervisor import Ending
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock
from dstack.protocol.agent import Container, JobOrder

log = logging.getLogger(__name__)

STARTS_AT_ONCE = 2 * (os.cpu_count() or 1)
"""More of them make each slower and none sooner."""

REMOVAL = {"force": 1, "v": 1}

NO_ENGINE_HINT = "Start Docker or Podman on the machine (Debian: `apt install docker.io`), or leave `image` out"


class ContainerRuntime(Runtime):
    """Runs jobs in containers."""

    def __init__(self, home: Home, engine: ContainerEngine, clock: Clock) -> None:
        self._home = home
        self._engine = engine
        self._clock = clock
        self._images = ImageStore(home.images, engine)
        self._watches: dict[str, Watch] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self._label = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:16]

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
                await asyncio.to_thread(lay_out, folder, order, self._home.launcher)
                body = creation(order, image, folder, {HOME_LABEL: self._label}, self._home.launcher)
                id = await self._create(_name(order.job_id), body)
                uid, gid = await give_files(self._engine, folder, id, container.user or image.user)
                known = {"id": id, "started_at": started_at, "uid": uid, "gid": gid}
                known |= {"missing": program_of(order, image).missing, "working_dir": working_dir_of(order, image)}
                write_json(folder.container, known)
                await self._engine.call("POST", f"/containers/{id}/start")
            except EngineRefused as refusal:
                raise _refusal_of_start(container, refusal) from None
            except EngineAway as error:
                raise _no_engine(error) from None
        note(folder, self._clock, f"started container {id[:12]}")

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
        watch = self._watches[folder.job_id] = Watch(self._engine, self._clock, folder, order)
        try:
            return await watch.run()
        finally:
            self._watches.pop(folder.job_id, None)

    def stop(self, folder: JobFolder) -> None:
        if (watch := self._watches.get(folder.job_id)) is not None:
            watch.stop_asked.set()

    async def clean_up(self, folder: JobFolder) -> None:
        try:
            await self._engine.call("DELETE", f"/containers/{_name(folder.job_id)}", query=REMOVAL)
        except EngineAway as error:
            log.info("The container of job %s is removed later: %s", folder.job_id, error)
        except EngineRefused as refusal:
            if refusal.status != 404:
                log.warning("The container of job %s is removed later: %s", folder.job_id, refusal.message)

    async def sweep(self, unfinished: Collection[str]) -> None:
        """Remove what was left behind: containers of jobs that are over.

        Args:
            unfinished: the jobs whose containers stay.
        """
        try:
            filters = f'{{"label":["{HOME_LABEL}={self._label}"]}}'
            for one in await self._engine.call("GET", "/containers/json", query={"all": 1, "filters": filters}):
                if one["Labels"].get(JOB_LABEL) not in unfinished:
                    await self._engine.call("DELETE", f"/containers/{one['Id']}", query=REMOVAL)
        except (EngineAway, EngineRefused) as error:
            log.info("Containers are swept later: %s", error)


def _name(job_id: str) -> str:
    return f"dstack-{job_id}"


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
