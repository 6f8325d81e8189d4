"""What an engine says when it refuses, as one reason for people and what to do about it."""

from collections.abc import Iterable

from dstack.agent.containers.api import EngineAway, EngineRefused
from dstack.errors import AgentRefused, HostTrouble
from dstack.protocol.agent import Container

NO_ENGINE_HINT = "Start Docker or Podman on the machine (Debian: `apt install docker.io`), or leave `image` out"

_DISK_HINT = "Make room on the machine, or ask for more `disk`"
_STATUSES_OF_LOGIN = ("status code 401", "status: 401")
_BAD_LOGIN = ("unauthorized", "no basic auth", "authentication required", "incorrect username", *_STATUSES_OF_LOGIN)
_FORBIDDEN = ("denied", "forbidden", "status code 403", "status: 403")
"""What registries also say of images that they do not have: not everybody shall know what there is."""
_MISSING = ("manifest unknown", "name unknown", "not found", "status code 404", "status: 404")


def no_engine(error: EngineAway | EngineRefused) -> HostTrouble:
    """Nothing can be done without an engine."""
    return HostTrouble(f"The container engine of the machine does not answer: {error}", hint=NO_ENGINE_HINT)


def refusal_of_pull(container: Container, said: str) -> AgentRefused:
    """Why an image cannot be had, from what the engine says."""
    name, user, said = container.image, container.username, said.strip()
    words = said.lower().replace(name.lower(), "")
    if "no matching manifest" in words or "no image found in manifest list" in words:
        return AgentRefused(
            f"The image `{name}` has no version for this kind of machine: {said}",
            hint="Name an image that is built for it",
        )
    if _is_disk_full(said):
        return AgentRefused(f"The disk of the machine is too full for the image `{name}`", hint=_DISK_HINT)
    is_bad_login, is_forbidden = _has(words, _BAD_LOGIN), _has(words, _FORBIDDEN)
    if user is None and (is_bad_login or is_forbidden):
        return AgentRefused(
            f"There is no image `{name}`, or it needs a login: {said}",
            hint="Correct `image`, or give `registry_auth`",
        )
    if is_bad_login:
        return AgentRefused(
            f"The registry of the image `{name}` refuses the user `{user}`: {said}", hint="Correct `registry_auth`"
        )
    if is_forbidden:
        return AgentRefused(
            f"There is no image `{name}`, or the user `{user}` may not pull it: {said}",
            hint="Correct `image` or `registry_auth`",
        )
    if _has(words, _MISSING):
        return AgentRefused(f"There is no image `{name}` in its registry: {said}", hint="Correct `image`")
    return AgentRefused(f"The image `{name}` could not be pulled: {said}", hint="Check its name and its registry")


def refusal_of_start(container: Container, said: str) -> AgentRefused:
    """Why a container cannot be made or started, from what the engine says."""
    if "unable to find user" in said or "unable to find group" in said or "no matching entries in passwd" in said:
        return AgentRefused(
            f"There is no user `{container.user}` in the image: {said}", hint="Name one of its users, or a number"
        )
    if "could not select device driver" in said:
        return AgentRefused(
            f"The container engine of the machine cannot give GPUs to containers: {said}",
            hint="Install NVIDIA's container toolkit on the machine",
        )
    if _is_disk_full(said):
        return HostTrouble(f"The disk of the machine is full: {said}", hint=_DISK_HINT)
    if "container-init binary not found" in said:
        return AgentRefused(
            f"Podman on the machine lacks its init program: {said}", hint="Install it (Debian: `apt install catatonit`)"
        )
    return AgentRefused(f"The container could not be started: {said}")


def _has(words: str, any_of: Iterable[str]) -> bool:
    return any(one in words for one in any_of)


def _is_disk_full(said: str) -> bool:
    return "no space left" in said.lower()
