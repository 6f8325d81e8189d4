"""Makes the containers of jobs, and removes them."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.containers.creation import HOME_LABEL, JOB_LABEL, creation, errand
from dstack.agent.containers.images import Image
from dstack.agent.containers.mounted import give_files, lay_out, made_for
from dstack.agent.gpus.cards import Cards, Grant
from dstack.agent.output import print_into_log
from dstack.agent.paths import Home, JobFolder
from dstack.agent.records import container_name
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container, JobOrder

log = logging.getLogger(__name__)

REMOVAL = {"force": 1, "v": 1}

FindCards: TypeAlias = Callable[[], Cards]
"""Says which cards this host has; may block."""


@dataclass(frozen=True, slots=True)
class Made:
    """A container that has not been started, and who its job is in it."""

    id: str
    uid: int
    gid: int


class Maker:
    """Makes and removes the containers of one agent."""

    def __init__(self, home: Home, engine: ContainerEngine, cards: FindCards) -> None:
        self._launcher = home.launcher
        self._engine = engine
        self._cards = cards
        self._label = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:16]

    async def make(self, folder: JobFolder, order: JobOrder, container: Container, image: Image) -> Made:
        """Make a job's container, with its files and its cards.

        Raises:
            AgentRefused: what it asks for is not there.
            EngineRefused, EngineAway
        """
        await asyncio.to_thread(lay_out, folder, order, self._launcher)
        if not await self._engine.shares_kernel():
            await asyncio.to_thread(print_into_log, folder)
        grant = await self._grant(order, container)
        body = creation(order, image, folder, {HOME_LABEL: self._label}, self._launcher, grant)
        id = await self._create(container_name(order.job_id), body)
        uid, gid = await give_files(self._engine, folder, id, container.user or image.user)
        if (uid, gid) != (0, 0):
            await self._give_made(folder, image.id, uid, gid)
        return Made(id, uid, gid)

    async def _give_made(self, folder: JobFolder, image_id: str, uid: int, gid: int) -> None:
        """Make the folders of this host that were made for a job's `volumes` those of who the job is."""
        made = await asyncio.to_thread(made_for, folder)
        if os.geteuid() == 0:
            for path in made:
                os.chown(path, uid, gid, follow_symlinks=False)
        elif made:
            places = {f"/dstack/made/{number}": Path(path) for number, path in enumerate(made)}
            await self._run_errand(folder, image_id, ("chown", f"{uid}:{gid}"), places)

    async def remove(self, job_id: str) -> bool:
        """Remove a job's container, running or not, where there is one. What cannot be removed now is swept later.

        Returns: False where the engine is away.
        """
        return await self._remove(container_name(job_id))

    async def open_up(self, folder: JobFolder, image_id: str) -> None:
        """Have this user be able to remove what the users of a job's container made, as only root could otherwise.

        Nothing is done where the engine, or the image, cannot: then something of the job stays on this host.
        """
        if not await asyncio.to_thread(_has_closed_folders, folder):
            return
        try:
            places = {f"/dstack/{path.name}": path for path in (folder.files, folder.absolute) if path.exists()}
            await self._run_errand(folder, image_id, ("chmod", "-R", "a+rwX"), places)
        except (EngineAway, EngineRefused) as error:
            log.warning("Some files of the job %s cannot be removed: %s", folder.job_id, error)

    async def _run_errand(
        self, folder: JobFolder, image_id: str, words: Sequence[str], places: Mapping[str, Path]
    ) -> None:
        """Have root of a container of a moment do one thing with folders of this host. See `creation.errand`."""
        labels = {JOB_LABEL: folder.job_id, HOME_LABEL: self._label}
        body = errand(image_id, words, places, labels, self._launcher)
        id = await self._create(f"{container_name(folder.job_id)}-files", body)
        await self._engine.call("POST", f"/containers/{id}/start")
        await self._engine.call("POST", f"/containers/{id}/wait")
        await self._remove(id)

    async def sweep(self, unfinished: Callable[[], Collection[str]]) -> None:
        """Remove what was left behind: containers of jobs that are over.

        Args:
            unfinished: the jobs whose containers stay.

        Raises:
            EngineRefused, EngineAway
        """
        filters = f'{{"label":["{HOME_LABEL}={self._label}"]}}'
        for one in await self._engine.call("GET", "/containers/json", query={"all": 1, "filters": filters}):
            # Asked only now: a job is known before its container is made.
            if one["Labels"].get(JOB_LABEL) not in unfinished():
                await self._remove(one["Id"])

    async def _remove(self, container: str) -> bool:
        try:
            await self._engine.call("DELETE", f"/containers/{container}", query=REMOVAL)
        except (EngineAway, EngineRefused) as error:
            if not isinstance(error, EngineRefused) or error.status != 404:
                log.warning("The container %s is removed later: %s", container, error)
            return isinstance(error, EngineRefused)
        return True

    async def _grant(self, order: JobOrder, container: Container) -> Grant:
        cards = await asyncio.to_thread(self._cards)
        grant = cards.grant(order.gpus, privileged=container.privileged)
        if grant.requests and await self._engine.is_podman():
            # It takes such requests and, in most of its versions, does nothing about them.
            raise AgentRefused(
                "Podman does not pass NVIDIA GPUs to containers created by Docker's API",
                hint="Use Docker and NVIDIA's container toolkit on the machine, or leave `image` out",
            )
        return grant

    async def _create(self, name: str, body: dict[str, object]) -> str:
        try:
            return str((await self._engine.call("POST", "/containers/create", body, query={"name": name}))["Id"])
        except EngineRefused as refusal:
            if refusal.status != 409:
                raise
        # An earlier agent made it and died; it was never started, or else this one would not be here.
        await self._engine.call("DELETE", f"/containers/{name}", query=REMOVAL)
        return str((await self._engine.call("POST", "/containers/create", body, query={"name": name}))["Id"])


def _has_closed_folders(folder: JobFolder) -> bool:
    """Whether this user may not remove all of a job's files. Blocks."""
    return os.geteuid() != 0 and any(
        not os.access(path := os.path.join(parent, name), os.R_OK | os.W_OK | os.X_OK) and not os.path.islink(path)
        for parent, names, _ in os.walk(folder.root)
        for name in names
    )
