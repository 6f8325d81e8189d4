"""How a job becomes a container: what the engine is asked for. Nothing is done here."""

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dstack.agent.containers.images import Image
from dstack.agent.containers.launcher import launch_arguments
from dstack.agent.environment import PORT, SHELLS
from dstack.agent.gpus.cards import Grant
from dstack.agent.paths import JobFolder
from dstack.agent.processes import MARKER
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container, JobOrder

FILES = "/workflow"
"""Where a job finds its files."""
LAUNCHER, LOG, SCRIPT = "/dstack/launch", "/dstack/log", "/dstack/script"
ARGUMENT_BYTES_MAX = 128 << 10
"""Of one argument of a program, on Linux."""

JOB_LABEL, HOME_LABEL = "dstack.job", "dstack.home"

PROCESSES_MIN = 4096
PROCESSES_PER_CPU = 512
"""Half of what a kernel allows the whole host by default: 1024 for each CPU. Processes and threads count alike."""

_SHELL_HINT = "Use an image with a shell, or name one of its programs as `entrypoint`"
_ON_SIGTERM = "trap 'exit 143' TERM\n"
"""The signal goes to all processes of the script: the shell must not be gone before what it runs has ended."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a container runs."""

    candidates: tuple[str, ...]
    """Paths to try, in this order."""
    arguments: tuple[str, ...]
    missing: str
    """What to say where there is none of them."""


def script_text(order: JobOrder) -> str:
    """The job's script, as it lies in its container."""
    return _ON_SIGTERM + order.script


def program_of(order: JobOrder, image: Image) -> Program:
    """What to run: the commands in a shell, or the given entrypoint, or what the image says.

    An entrypoint that ends in `-c` (or `-lc`, …) gets the commands as one argument; another one a shell's command line.

    Raises:
        AgentRefused: nobody says what to run.
    """
    container = _container(order)
    path = order.env.get("PATH", image.path)
    if order.script and container.entrypoint is None:
        names = SHELLS if order.shell is None else (order.shell,)
        candidates = tuple(one for name in names for one in _places(name, path))
        words = " or ".join(f"`{name}`" for name in names)
        said = f"The image `{container.image}` has no shell ({words}) to run `commands`. {_SHELL_HINT}"
        return Program(candidates, (SCRIPT,), said)
    words_to_run = container.entrypoint if container.entrypoint is not None else (*image.entrypoint, *image.command)
    if not words_to_run:
        raise AgentRefused(f"The image `{container.image}` has no command", hint="Write `commands` or `entrypoint`")
    name, *arguments = words_to_run
    if order.script:
        _check_argument(script_text(order), arguments)
        arguments += [script_text(order)] if _takes_a_script(arguments) else [order.shell or "sh", SCRIPT]
    where = "" if "/" in name else f" on its PATH ({path})"
    said = f"The image `{container.image}` has no program `{name}`{where} that could be started. Correct `entrypoint`"
    return Program(_places(name, path), tuple(arguments), said)


def creation(
    order: JobOrder, image: Image, folder: JobFolder, labels: dict[str, str], launcher: Path, grant: Grant
) -> dict[str, object]:
    """The body of the call that makes the container.

    Args:
        launcher: where `launcher.launcher` lies on this host.
        grant: of the host's cards.
    """
    container, program = _container(order), program_of(order, image)
    mounts = [
        _bind(launcher, LAUNCHER, read_only=True),
        _bind(folder.pipe if folder.pipe.exists() else folder.log("job"), LOG),
        _bind(folder.files, FILES),
        *(
            _bind(Path(mount.source), mount.path, read_only=mount.read_only)
            for mount in container.mounts
            if not (mount.optional and not os.path.exists(mount.source))
        ),
    ]
    mounts += [_bind(folder.absolute / path.lstrip("/"), path) for path in container.files]
    if order.script:
        mounts.append(_bind(folder.script, SCRIPT, read_only=True))
    working_dir = working_dir_of(order, image)
    host: dict[str, object] = {
        **_devices(grant),
        "Init": True,
        "Mounts": mounts,
        "Privileged": container.privileged,
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "PidsLimit": processes_max(container.cpus or os.cpu_count() or 1),
    }
    if container.host_network:
        host["NetworkMode"] = "host"
    if container.shm_bytes is not None:
        host["ShmSize"] = container.shm_bytes
    if container.cpus is not None:
        host["NanoCpus"] = int(container.cpus * 1e9)
    if container.memory_bytes is not None:
        host |= {"Memory": container.memory_bytes, "MemorySwap": container.memory_bytes}
    return {
        "Image": image.id,
        "User": container.user or image.user,
        "WorkingDir": working_dir,
        "Env": [f"{name}={value}" for name, value in _environment(order, grant, working_dir).items()],
        "Entrypoint": [LAUNCHER],
        "Cmd": launch_arguments(LOG, f"{program.missing}\n", program.candidates, program.arguments),
        "Labels": {JOB_LABEL: order.job_id, **labels},
        "HostConfig": host,
    }


def errand(
    image_id: str, words: Sequence[str], places: Mapping[str, Path], labels: dict[str, str], launcher: Path
) -> dict[str, object]:
    """The body of the call that makes a container in which root does one thing with folders of this host.

    A program of the image does it; where the image has none of that name, nothing is done.

    Args:
        words: the program's name, and its arguments before the places.
        places: where the folders are in the container.
    """
    name, *arguments = words
    mounts = [_bind(launcher, LAUNCHER, read_only=True), *(_bind(path, place) for place, path in places.items())]
    return {
        "Image": image_id,
        "User": "0",
        "Entrypoint": [LAUNCHER],
        "Cmd": launch_arguments("/dev/null", "", (f"/bin/{name}", f"/usr/bin/{name}"), (*arguments, *places)),
        "Labels": labels,
        "HostConfig": {
            "Mounts": mounts,
            "NetworkMode": "none",
            "LogConfig": {"Type": "none"},
            "PidsLimit": PROCESSES_MIN,
        },
    }


def processes_max(cpus: float) -> int:
    """How many processes and threads a container may have: a fork bomb fills its container, not the host.

    Args:
        cpus: how many it may use.

    Examples:
        >>> processes_max(2), processes_max(192)
        (4096, 98304)
    """
    return max(PROCESSES_MIN, int(PROCESSES_PER_CPU * cpus))


def working_dir_of(order: JobOrder, image: Image) -> str:
    """Return where the job starts: in its files, or at an absolute path. An image that runs as it is keeps its own."""
    if not order.script and order.working_dir == "." and order.files_root is None and order.git is None:
        return image.working_dir or "/"
    return posixpath.normpath(posixpath.join(FILES, order.working_dir))


def _container(order: JobOrder) -> Container:
    assert order.container is not None
    return order.container


def _takes_a_script(arguments: Sequence[str]) -> bool:
    return bool(arguments) and arguments[-1].startswith("-") and arguments[-1].endswith("c")


def _check_argument(script: str, arguments: Sequence[str]) -> None:
    """Refuse commands that no program can be given in one argument."""
    size = len(script.encode())
    if size >= ARGUMENT_BYTES_MAX and _takes_a_script(arguments):
        raise AgentRefused(
            f"The commands are {size:,} bytes, and `entrypoint` takes them as one argument of less than 128 KiB",
            hint="End `entrypoint` without `-c`: it then gets a file of the commands",
        )


def _places(name: str, path: str) -> tuple[str, ...]:
    if "/" in name:
        return (name,)
    return tuple(f"{folder.rstrip('/')}/{name}" for folder in path.split(":") if folder)


def _bind(source: Path, target: str, *, read_only: bool = False) -> dict[str, object]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def _devices(grant: Grant) -> dict[str, object]:
    """The part of `HostConfig` that gives cards."""
    devices: dict[str, object] = {}
    if grant.requests:
        devices["DeviceRequests"] = list(grant.requests)
    if grant.nodes:
        devices["Devices"] = [
            {"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rwm"} for node in grant.nodes
        ]
        devices["GroupAdd"] = [str(group) for group in grant.groups]
    if grant.locks_memory:
        devices["Ulimits"] = [{"Name": "memlock", "Soft": -1, "Hard": -1}]
    return devices


def _environment(order: JobOrder, grant: Grant, working_dir: str) -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",
        "TINI_KILL_PROCESS_GROUP": "1",
        **order.env,
        **grant.env,
        **({} if order.service is None else {PORT: str(order.service.port)}),
        MARKER: order.job_id,
        "DSTACK_REPO_DIR": posixpath.normpath(posixpath.join(FILES, order.repo_path)),
        "DSTACK_WORKING_DIR": working_dir,
    }
