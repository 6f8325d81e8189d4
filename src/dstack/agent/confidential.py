"""What of an order is confidential: the job's environment, and credentials for its repo and its image.

It is kept apart from the order, in a file in memory where this host has a place for such, and no longer than the start
of the job takes: an agent that starts anew meanwhile can go on. Afterwards a job's environment is in the memory of its
supervisor, or with the container engine.
"""

import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dstack.agent.paths import Home, JobFolder, make_private_folder, read_json, write_json
from dstack.errors import AgentRefused, ConfigurationError
from dstack.kit.plain import from_plain, to_plain
from dstack.protocol.agent import JobOrder

log = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")
_CREDENTIALS = {"git": ("private_key", "token"), "container": ("username", "password")}
"""In which part of an order they are."""


def memory_folder(home: Path) -> Path:
    """Where an agent keeps what must not be on a disk. Pure; nothing need be there."""
    digest = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:16]
    return MEMORY / f"dstack-{os.getuid()}-{digest}"


def public(order: JobOrder) -> dict[str, Any]:
    """An order as it may lie on a disk."""
    body: dict[str, Any] = to_plain(order)
    del body["env"]
    for part, names in _CREDENTIALS.items():
        body[part] = body[part] and {name: value for name, value in body[part].items() if name not in names}
    return body


def keep(folder: JobFolder, order: JobOrder) -> None:
    """Keep what is confidential until the job has started, in memory or else in the job's own folder. Blocks."""
    body: dict[str, Any] = to_plain(order)
    kept = {"env": body["env"]} | {
        part: {name: body[part][name] for name in names} for part, names in _CREDENTIALS.items() if body[part]
    }
    in_memory, on_disk = _memory_of(folder), _disk_of(folder)
    try:
        make_private_folder(in_memory.parent)
        write_json(in_memory, kept)
    except (OSError, ConfigurationError) as error:  # none is there, it is full, or another user has made it
        log.info("The confidential part of the order of job %s is on disk until its start: %s", folder.job_id, error)
        write_json(on_disk, kept)


def check_kept(folder: JobFolder) -> None:
    """Make sure that a job can still be started.

    Raises:
        AgentRefused: what is confidential is lost, since the host was switched off.
    """
    is_in_order = read_json(folder.order, lambda body: "env" in body)  # an earlier version kept it there
    if not is_in_order and all(read_json(place, dict) is None for place in _places(folder)):
        raise AgentRefused(
            "The machine was switched off before the job had started; its environment was in memory alone",
            hint="Submit again, or let `retry` do so",
        )


def joined(folder: JobFolder, body: Mapping[str, Any]) -> JobOrder:
    """The order of which this is the public part, with what is confidential while that is kept.

    Raises:
        TypeError, ValueError: it is not understood.
    """
    kept = next((found for place in _places(folder) if (found := read_json(place, dict)) is not None), {})
    parts = {part: {**body[part], **kept.get(part, {})} for part in _CREDENTIALS if body.get(part)}
    return from_plain(JobOrder, {**body, **({"env": kept["env"]} if kept else {}), **parts})


def forget(folder: JobFolder) -> None:
    """Remove what is confidential of a job that has started, or never will. Blocks."""
    for place in _places(folder):
        place.unlink(missing_ok=True)
    shutil.rmtree(scratch_folder(folder), ignore_errors=True)


def scratch_folder(folder: JobFolder) -> Path:
    """A folder for what `git` is told and must not be left behind: in memory where that can be."""
    return _places(folder)[0].with_suffix(".git")


def sweep(home: Home) -> None:
    """Remove all that is kept, but of the jobs that have not started, and the place where nothing is left there."""
    place = memory_folder(home.root)
    if not _is_ours(place):
        return
    waiting = {path.name for path in home.jobs.iterdir() if not _has_begun(JobFolder(path))}
    for path in list(place.iterdir()):
        if path.is_dir() and path.stem not in waiting:
            shutil.rmtree(path, ignore_errors=True)
        elif path.stem not in waiting:  # also the draft of an agent that was killed while it wrote
            path.unlink(missing_ok=True)
    with suppress(OSError):
        place.rmdir()


def hold_environment(env: dict[str, str]) -> int:
    """Keep a job's environment in the memory of this process, its supervisor. Returns the descriptor."""
    descriptor = os.memfd_create("environment")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(json.dumps(env).encode())
    return descriptor


def environment_of(folder: JobFolder, order: JobOrder) -> dict[str, str]:
    """The environment in the order of a process job that runs, from the memory of its supervisor.

    Raises:
        OSError: it does not run.
    """
    known: dict[str, Any] = read_json(folder.pid, dict) or {}
    if not folder.has_writer():
        raise OSError(0, "the job does not run")
    if "environment" not in known:  # an earlier version started it, and left all in the order
        return order.env
    with open(f"/proc/{known['pid']}/fd/{known['environment']}", "rb") as file:
        return dict(json.loads(file.read()))


def _places(folder: JobFolder) -> list[Path]:
    """Where it may be kept."""
    in_memory = _memory_of(folder)
    return [in_memory, _disk_of(folder)] if _is_ours(in_memory.parent) else [_disk_of(folder)]


def _is_ours(place: Path) -> bool:
    """Whether a place in memory is there and this user's: another user's is none, whatever is in it."""
    try:
        status = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _has_begun(folder: JobFolder) -> bool:
    """Whether a job has started, or never will."""
    return folder.pid.exists() or folder.container.exists() or folder.end.exists()


def _memory_of(folder: JobFolder) -> Path:
    return memory_folder(folder.root.parent.parent) / f"{folder.job_id}.json"


def _disk_of(folder: JobFolder) -> Path:
    return folder.root / "confidential.json"
