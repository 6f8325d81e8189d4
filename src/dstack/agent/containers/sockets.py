"""Where a container engine may listen, and whether one does."""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any

from dstack.protocol.agent import Engine

DOCKER, PODMAN = "docker", "podman"

PROBE_TIMEOUT_S = 5.0
REMOVAL_TIMEOUT_S = 30.0
MACHINES_OF_GO = {"amd64": "x86_64", "arm64": "aarch64"}
"""Go's names of machines, and the kernel's."""


def unix_paths() -> tuple[str, ...]:
    """The sockets to try, in this order: the one that `DOCKER_HOST` names alone, or Docker's and Podman's."""
    named = os.environ.get("DOCKER_HOST", "")
    if named.startswith("unix://"):
        return (named.removeprefix("unix://"),)
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    docker = ("/var/run/docker.sock", f"{runtime}/docker.sock", os.path.expanduser("~/.docker/run/docker.sock"))
    return (*docker, "/run/podman/podman.sock", f"{runtime}/podman/podman.sock")


def probe_engine() -> Engine | str:
    """The engine of this host, or why there is none that could be used. Blocks for moments."""
    said = "no Docker or Podman answers on this machine"
    for path in unix_paths():
        try:
            return _ask(path)
        except FileNotFoundError:
            continue
        except PermissionError:
            said = f"this user may not use `{path}`; add it to the group `docker`"
        except (OSError, HTTPException, ValueError, KeyError) as error:
            said = f"`{path}` does not answer: {error}"
    return said


def remove_container(id: str) -> bool:
    """Remove a container, running or not, whose agent is gone. Blocks for seconds.

    Returns: whether it is gone; False where no engine says so.
    """
    for path in unix_paths():
        with suppress(OSError, HTTPException):
            status, _ = _call(path, "DELETE", f"/containers/{id}?force=1&v=1", REMOVAL_TIMEOUT_S)
            return status in (204, 404)
    return False


def _ask(path: str) -> Engine:
    _, body = _call(path, "GET", "/version", PROBE_TIMEOUT_S)
    return engine_of(json.loads(body))


def _call(path: str, method: str, target: str, timeout_s: float) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(timeout_s)
        connected.connect(path)
        http = HTTPConnection("engine", timeout=timeout_s)
        http.sock = connected
        http.request(method, target)
        answer = http.getresponse()
        return answer.status, answer.read()


def engine_of(version: Mapping[str, Any]) -> Engine:
    """The engine that gave this answer to `/version`."""
    parts = {part["Name"] for part in version.get("Components", ())}
    name = PODMAN if "Podman Engine" in parts else DOCKER
    return Engine(name, str(version["Version"]), MACHINES_OF_GO.get(version["Arch"], version["Arch"]))
