"""Images: what is in them, and how they come to this host."""

import asyncio
import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from dstack.agent.containers.api import ContainerEngine, EngineRefused
from dstack.agent.containers.refusals import refusal_of_pull
from dstack.agent.containers.sockets import MACHINES_OF_GO
from dstack.agent.runtimes.base import Tell
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container, Layer

PULL_STALL_S = 120.0
"""A pull in which nothing moves for so long has failed. One that moves may take as long as it needs."""
LAYERS_MAX = 200
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,500}")


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says of itself."""

    id: str
    machine: str
    """As `uname -m` names it."""
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    working_dir: str
    path: str
    """Its `PATH`."""
    tags: tuple[str, ...] = ()
    """The names it has on this host."""


async def find_image(engine: ContainerEngine, name: str) -> Image | None:
    """The image of a name as it is on this host; None where it is not.

    Raises:
        AgentRefused: it is no name of an image.
        EngineAway, EngineRefused
    """
    if not _REFERENCE.fullmatch(name) or ".." in name:
        raise AgentRefused(f"`{name[:200]}` is not the name of an image", hint="Write it like `ubuntu:24.04`")
    try:
        return _image_of(await engine.call("GET", f"/images/{quote(name, safe='/:@')}/json"))
    except EngineRefused as refusal:
        if refusal.status == 404:
            return None
        raise


async def list_tags(engine: ContainerEngine) -> dict[str, tuple[str, ...]]:
    """The names of all images on this host, by their ids.

    Raises:
        EngineAway, EngineRefused
    """
    return {str(one["Id"]): tuple(one.get("RepoTags") or ()) for one in await engine.call("GET", "/images/json")}


class Pulls:
    """The pulls of a host.

    An engine downloads a few layers at a time, of all pulls together. What waits for its turn behind the layers of
    another pull says nothing, and has not stalled as long as that one moves.
    """

    def __init__(self, engine: ContainerEngine, stall_s: float = PULL_STALL_S) -> None:
        """Args: `stall_s`: how long nothing may move in a pull."""
        self._engine = engine
        self._stall_s = stall_s
        self._under_way: dict[_Progress, asyncio.Timeout] = {}

    async def pull(self, container: Container, tell: Tell) -> None:
        """Fetch an image from its registry.

        Args:
            tell: hears how far its layers are.

        Raises:
            AgentRefused: it cannot be had; says why, and what to do.
            EngineAway
        """
        progress = _Progress()
        try:
            async with asyncio.timeout(self._stall_s) as stall:
                self._under_way[progress] = stall
                try:
                    await self._take_in(container, progress, tell)
                finally:
                    del self._under_way[progress]
                    if not progress.only_waits:
                        self._moves(progress)  # it gives its turn to others
        except EngineRefused as refusal:
            raise refusal_of_pull(container, refusal.message) from None
        except TimeoutError:
            raise AgentRefused(
                f"The pull of the image `{container.image}` stalled: nothing came for {self._stall_s:g} s",
                hint="Check how the machine reaches the registry, and submit again",
            ) from None

    async def _take_in(self, container: Container, progress: "_Progress", tell: Tell) -> None:
        name = container.image
        reference = (
            {"fromImage": name} if "@" in name else dict(zip(("fromImage", "tag"), _name_and_tag(name), strict=True))
        )
        answer = self._engine.lines("POST", "/images/create", stall_s=None, query=reference, headers=_auth(container))
        async for line in answer:
            if "error" in line:
                raise refusal_of_pull(container, str(line["error"]))
            has_news = progress.takes(line)
            self._moves(progress)
            if has_news:
                tell(progress.layers())
        # Podman does not say of each layer when it is unpacked.
        progress.complete()
        tell(progress.layers())

    def _moves(self, moving: "_Progress") -> None:
        now = asyncio.get_running_loop().time()
        for progress, stall in self._under_way.items():
            if stall.expired():
                continue
            if progress is moving:
                stall.reschedule(now + self._stall_s)
            elif progress.only_waits:
                # Longer than for the one that moves: should that stall now, its end comes first and lets others go on.
                stall.reschedule(now + 2 * self._stall_s)


def _name_and_tag(name: str) -> tuple[str, str]:
    """`host:5000/app` has no tag, although it has a colon."""
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def _auth(container: Container) -> dict[str, str]:
    if container.username is None:
        return {}
    host, slash, _ = container.image.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    login = {
        "username": container.username,
        "password": container.password or "",
        "serveraddress": host if is_host else "https://index.docker.io/v1/",
    }
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


class _Progress:
    """The layers of a pull, from what the engine says line by line."""

    def __init__(self) -> None:
        self._layers: dict[str, Layer] = {}
        self._said: dict[str, str] = {}
        """What was said last of each layer."""

    @property
    def only_waits(self) -> bool:
        """Whether it waits for its turn to download, and nothing of it has one."""
        said = self._said.values()
        return "Waiting" in said and "Downloading" not in said

    def takes(self, line: dict[str, Any]) -> bool:
        """Whether the line says something new of a layer."""
        id, status = str(line.get("id", "")), str(line.get("status", ""))
        known = self._layers.get(id)
        if known is None and (
            not id or not status.startswith(("Pulling fs", "Already exists", "Downloading", "Waiting"))
        ):
            return False
        if known is None and len(self._layers) >= LAYERS_MAX:
            return False
        layer = known or Layer(id, 0, None, False)
        detail = line.get("progressDetail") or {}
        match status:
            case "Downloading":
                size = detail.get("total") if int(detail.get("total") or -1) > 0 else layer.size_bytes
                changed = Layer(id, int(detail.get("current") or 0), size, False)
            case "Download complete" | "Verifying Checksum" if layer.size_bytes is not None:
                changed = Layer(id, layer.size_bytes, layer.size_bytes, False)
            case "Pull complete" | "Already exists":
                changed = Layer(id, layer.size_bytes or layer.got_bytes, layer.size_bytes, True)
            case _:
                changed = layer
        self._layers[id] = changed
        self._said[id] = status
        return changed != known

    def complete(self) -> None:
        """All is here."""
        for id, layer in self._layers.items():
            self._layers[id] = Layer(id, layer.size_bytes or layer.got_bytes, layer.size_bytes, True)

    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layers.values())


def _image_of(body: dict[str, Any]) -> Image:
    config = body.get("Config") or {}
    return Image(
        id=str(body["Id"]),
        machine=MACHINES_OF_GO.get(str(body.get("Architecture")), str(body.get("Architecture"))),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        user=str(config.get("User") or ""),
        working_dir=str(config.get("WorkingDir") or "/"),
        path=next(_values(config.get("Env") or (), "PATH"), DEFAULT_PATH),
        tags=tuple(body.get("RepoTags") or ()),
    )


def _values(env: Iterable[str], wanted: str) -> Iterator[str]:
    return (value for name, _, value in (line.partition("=") for line in env) if name == wanted)
