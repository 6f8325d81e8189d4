"""The images on this host, and what is remembered of them beside what the engine knows."""

import asyncio
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote

from dstack.agent.containers.api import ContainerEngine, EngineRefused
from dstack.agent.containers.images import PULL_STALL_S, Image, Pulls, find_image, list_tags
from dstack.agent.containers.launcher import MACHINES
from dstack.agent.disks import Disk, disk_of
from dstack.agent.paths import read_json, write_json
from dstack.agent.runtimes.base import Tell
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock
from dstack.kit.plain import from_plain
from dstack.protocol.agent import Container

PRIVATE_MAX = 1000
UNUSED_MAX = timedelta(days=7)
"""What no job has used for so long is removed, where this agent has pulled it."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that this agent has pulled, and that was not here before."""

    used_at: float
    """When a job last had it, in seconds since the epoch."""
    tags: list[str]
    """The names it got. One that has others too is somebody else's by now."""


@dataclass(slots=True)
class Memory:
    """What must be remembered of images, by their ids."""

    private: list[str] = field(default_factory=list)
    """Those that not everybody may pull."""
    pulled: dict[str, Pulled] = field(default_factory=dict)


class ImageStore:
    """Has images here when jobs need them, and removes what it pulled when none has needed it for long."""

    def __init__(
        self,
        file: Path,
        engine: ContainerEngine,
        clock: Clock,
        *,
        stall_s: float = PULL_STALL_S,
        measure: Callable[[str], Disk | None] = disk_of,
    ) -> None:
        """Args:
        file: where what must be remembered is.
        stall_s: how long nothing may move in a pull.
        measure: how full the disk of a folder is; None where the folder is not on this host.
        """
        self._file = file
        self._engine = engine
        self._clock = clock
        self._pulls = Pulls(engine, stall_s)
        self._measure = measure
        known = read_json(file, partial(from_plain, Memory))
        self._memory = known or Memory()
        self._has_forgotten = known is None and file.exists()
        """Whether it is not known any more which of the images that are here not everybody may have."""
        self._needed: dict[str, str] = {}
        """The image of each job that is under way here, by the job's id."""
        self._removing = asyncio.Lock()

    async def fetch(self, job_id: str, container: Container, tell: Tell, say: Say) -> Image:
        """Have a job's image here. It stays until `release`.

        Who may not pull it may not use it either, although somebody else has pulled it.

        Args:
            tell: hears how far its layers are.
            say: hears what is done.

        Raises:
            AgentRefused: it cannot be had, or this machine cannot run it.
            EngineAway, EngineRefused
        """
        if self._has_forgotten:
            await self._distrust()
        image = await self._hold(job_id, container)
        if image is None or container.username is not None or image.id in self._memory.private:
            await self.clean(say)
            before = await list_tags(self._engine)
            say(f"pulling the image {container.image}")
            await self._pulls.pull(container, tell)
            image = await self._hold(job_id, container)
            if image is None:
                raise AgentRefused(
                    f"The image `{container.image}` was removed right after its pull", hint="Submit again"
                )
            self._remember(image, before, is_private=container.username is not None)
        machine = platform.machine()
        if machine not in MACHINES or image.machine != machine:
            raise AgentRefused(
                f"The image `{container.image}` is for {image.machine}, and this machine is {machine}",
                hint="Name an image that is built for it",
            )
        say(f"the image is {image.id}")
        return image

    async def find(self, container: Container) -> Image:
        """A job's image, which was fetched.

        Raises:
            AgentRefused: somebody has removed it.
            EngineAway, EngineRefused
        """
        image = await find_image(self._engine, container.image)
        if image is None:
            raise AgentRefused(f"The image `{container.image}` was removed before the job started", hint="Submit again")
        return image

    def release(self, job_id: str, image_id: str | None) -> None:
        """A job has ended.

        Args:
            image_id: what it ran in, where it came so far.
        """
        self._needed.pop(job_id, None)
        if image_id is not None:
            self._used(image_id)

    async def clean(self, say: Say) -> None:
        """Remove images that this agent pulled and no job needs: those unused for long, and while the disk is nearly
        full the longest-unused first.

        Args:
            say: hears of each that is removed.

        Raises:
            EngineAway, EngineRefused
        """
        now = self._clock.now().timestamp()
        for id, pulled in sorted(self._memory.pulled.items(), key=lambda item: item[1].used_at):
            unused = timedelta(seconds=now - pulled.used_at)
            if unused >= UNUSED_MAX:
                why = f"no job has used it for {unused.days} days"
            elif (disk := await self._disk()) is not None and disk.is_nearly_full:
                why = f"the disk is nearly full, {disk.free_bytes / 1e9:.1f} GB are free"
            else:
                return
            async with self._removing:
                if id in self._memory.pulled and id not in self._needed.values() and await self._remove(id):
                    say(f"removed the image {', '.join(pulled.tags) or id}: {why}")

    async def _distrust(self) -> None:
        """Take each image that came from a registry for one that only those may have who may pull it."""
        here = await self._engine.call("GET", "/images/json")
        self._memory.private = [str(one["Id"]) for one in here if one.get("RepoDigests")][:PRIVATE_MAX]
        self._write()
        self._has_forgotten = False

    async def _hold(self, job_id: str, container: Container) -> Image | None:
        """The image as it is here now, which is not removed any more."""
        async with self._removing:
            image = await find_image(self._engine, container.image)
            if image is not None:
                self._needed[job_id] = image.id
                self._used(image.id)
            return image

    async def _remove(self, id: str) -> bool:
        """Whether it is removed: what somebody has named, or has made a container of, is theirs and stays."""
        if (image := await find_image(self._engine, id)) is None or not set(image.tags) <= set(
            self._memory.pulled[id].tags
        ):
            del self._memory.pulled[id]
            self._write()
            return False
        try:
            for name in (*image.tags, id):
                await self._engine.call("DELETE", f"/images/{quote(name, safe='/:@')}")
        except EngineRefused as refusal:
            # 404: the last name has taken the image along. 409: there is a container of it.
            if refusal.status not in (404, 409):
                raise
        if await find_image(self._engine, id) is not None:
            return False
        del self._memory.pulled[id]
        self._write()
        return True

    async def _disk(self) -> Disk | None:
        """The disk that the engine has its images on."""
        about = await self._engine.call("GET", "/info")
        return await asyncio.to_thread(self._measure, str(about.get("DockerRootDir") or ""))

    def _remember(self, image: Image, before: Mapping[str, tuple[str, ...]], *, is_private: bool) -> None:
        if is_private and image.id not in self._memory.private:
            self._memory.private = [*self._memory.private[-PRIVATE_MAX + 1 :], image.id]
        known = self._memory.pulled.get(image.id)
        if image.id not in before or known is not None:
            had = before.get(image.id, ())
            own = [*(known.tags if known else ()), *(tag for tag in image.tags if tag not in had)]
            self._memory.pulled[image.id] = Pulled(self._clock.now().timestamp(), list(dict.fromkeys(own)))
        self._write()

    def _used(self, image_id: str) -> None:
        if (known := self._memory.pulled.get(image_id)) is not None:
            self._memory.pulled[image_id] = Pulled(self._clock.now().timestamp(), known.tags)
            self._write()

    def _write(self) -> None:
        write_json(self._file, asdict(self._memory), durable=True)
