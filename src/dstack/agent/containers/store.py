"""The images on this host, and what is remembered of them beside what the engine knows."""

import platform
from collections.abc import Callable
from pathlib import Path

from dstack.agent.containers.api import ContainerEngine
from dstack.agent.containers.images import Image, find_image, pull
from dstack.agent.containers.launcher import MACHINES
from dstack.agent.paths import read_json, write_json
from dstack.agent.runtimes.base import Tell
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container

PRIVATE_MAX = 1000


class ImageStore:
    """Has images here when jobs need them."""

    def __init__(self, file: Path, engine: ContainerEngine) -> None:
        """Args: `file`: where what must be remembered is."""
        self._file = file
        self._engine = engine

    async def fetch(self, container: Container, tell: Tell, say: Callable[[str], None]) -> Image:
        """Have a job's image here.

        Who may not pull it may not use it either, although somebody else has pulled it.

        Args:
            tell: hears how far its layers are.
            say: hears what is done.

        Raises:
            AgentRefused: it cannot be had, or this machine cannot run it.
            EngineAway, EngineRefused
        """
        image = await find_image(self._engine, container.image)
        if image is None or container.username is not None or image.id in self._private():
            say(f"pulling the image {container.image}")
            await pull(self._engine, container, tell)
            image = await find_image(self._engine, container.image)
            if image is not None and container.username is not None:
                self._keep_private(image.id)
        if image is None:
            raise AgentRefused(f"The image `{container.image}` was pulled and is gone again")
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
            raise AgentRefused(f"The image `{container.image}` was removed before the job started")
        return image

    def _private(self) -> list[str]:
        """The ids of images that not everybody may pull."""
        return list((read_json(self._file) or {}).get("private", ()))

    def _keep_private(self, image_id: str) -> None:
        known = self._private()
        if image_id not in known:
            write_json(self._file, {"private": [*known[-PRIVATE_MAX:], image_id]}, durable=True)
