"""Images: what is in them, and how they come to this host."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from dstack.agent.containers.api import ContainerEngine, EngineRefused
from dstack.agent.containers.sockets import MACHINES_OF_GO
from dstack.agent.runtimes.base import Tell
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container, Layer

PULL_STALL_S = 120.0
"""A pull in which nothing moves for so long has failed. One that moves may take as long as it needs."""
LAYERS_MAX = 200
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,500}")
_NEEDS_LOGIN = ("unauthorized", "no basic auth", "denied", "authentication required", "forbidden", "401", "403")
_MISSING = ("not found", "manifest unknown", "does not exist", "name unknown", "404")


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


async def find_image(engine: ContainerEngine, name: str) -> Image | None:
    """The image of a name as it is on this host; None where it is not.

    Raises:
        AgentRefused: it is no name of an image.
        EngineAway, EngineRefused
    """
    if not _REFERENCE.fullmatch(name) or ".." in name:
        raise AgentRefused(f"`{name[:200]}` is no name of an image", hint="Write it like `ubuntu:24.04`")
    try:
        return _image_of(await engine.call("GET", f"/images/{quote(name, safe='/:@')}/json"))
    except EngineRefused as refusal:
        if refusal.status == 404:
            return None
        raise


async def pull(engine: ContainerEngine, container: Container, tell: Tell) -> None:
    """Fetch an image from its registry.

    Raises:
        AgentRefused: it cannot be had; says why, and what to do.
        EngineAway
    """
    progress = _Progress()
    name = container.image
    reference = (
        {"fromImage": name} if "@" in name else dict(zip(("fromImage", "tag"), _name_and_tag(name), strict=True))
    )
    try:
        answer = engine.lines("POST", "/images/create", stall_s=PULL_STALL_S, query=reference, headers=_auth(container))
        async for line in answer:
            if "error" in line:
                raise refusal_of_pull(container, str(line["error"]))
            if progress.takes(line):
                tell(progress.layers())
    except EngineRefused as refusal:
        raise refusal_of_pull(container, refusal.message) from None
    except TimeoutError:
        raise AgentRefused(
            f"The pull of the image `{name}` stalled: nothing came for {PULL_STALL_S:g} s",
            hint="Check how the machine reaches the registry, and submit again",
        ) from None


def refusal_of_pull(container: Container, said: str) -> AgentRefused:
    """Why an image cannot be had, from what the engine says."""
    name, words = container.image, said.lower()
    said = said.strip()
    if "no matching manifest" in words or "no image found in manifest list" in words:
        return AgentRefused(f"The image `{name}` has no version for this kind of machine: {said}")
    if "no space left" in words:
        return AgentRefused(f"The disk of the machine is too full for the image `{name}`", hint="Ask for more `disk`")
    if container.username is not None and any(word in words for word in _NEEDS_LOGIN):
        return AgentRefused(
            f"The registry of the image `{name}` refuses the user `{container.username}`: {said}",
            hint="Correct `registry_auth`",
        )
    if any(word in words for word in (*_NEEDS_LOGIN, *_MISSING)):
        return AgentRefused(
            f"There is no image `{name}`, or it needs a login: {said}",
            hint="Correct `image`, or give `registry_auth`",
        )
    return AgentRefused(f"The image `{name}` could not be pulled: {said}", hint="Check its name and its registry")


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
        return changed != known

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
    )


def _values(env: Iterable[str], wanted: str) -> Iterator[str]:
    return (value for name, _, value in (line.partition("=") for line in env) if name == wanted)
