"""What an engine says when it refuses, as one reason for people and what to do about it."""

from dstack.agent.containers.api import EngineAway, EngineRefused
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container

NO_ENGINE_HINT = "Start Docker or Podman on the machine (Debian: `apt install docker.io`), or leave `image` out"

_NEEDS_LOGIN = ("unauthorized", "no basic auth", "denied", "authentication required", "forbidden", "401", "403")
_MISSING = ("not found", "manifest unknown", "does not exist", "name unknown", "404")


def no_engine(error: EngineAway | EngineRefused) -> AgentRefused:
    """Nothing can be done without an engine."""
    return AgentRefused(f"The container engine of the machine does not answer: {error}", hint=NO_ENGINE_HINT)


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
    if "no space left" in said:
        return AgentRefused(f"The disk of the machine is full: {said}", hint="Ask for more `disk`")
    if "container-init binary not found" in said:
        return AgentRefused(
            f"Podman on the machine lacks its init program: {said}", hint="Install it (Debian: `apt install catatonit`)"
        )
    return AgentRefused(f"The container could not be started: {said}")
