"""What the small files in a job's folder hold. A file that is lost or damaged reads as None, and each reader says what
that means.
"""

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dstack.agent.confidential import joined
from dstack.agent.paths import Home, JobFolder, read_json, write_json
from dstack.kit.plain import from_plain
from dstack.protocol.agent import Container, JobOrder

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended; the contents of its file `end`."""

    end: str
    """See `JobReport.end`."""
    ended_at: float
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """The file `pid`."""

    pid: int
    """The supervisor's."""
    started_at: float


@dataclass(frozen=True, slots=True)
class KnownContainer:
    """The file `container`."""

    id: str
    started_at: float
    uid: int
    gid: int
    image: str
    missing: str
    """What the launcher says where it finds nothing to start."""
    working_dir: str
    started_monotonic_s: float | None = None
    """By the host's clock that nobody sets; None where an agent of an earlier version wrote it."""


@dataclass(frozen=True, slots=True)
class KnownReplica:
    """The file `service`."""

    port: int
    """At which the replica is to listen."""
    is_ready: bool = False
    address: str | None = None
    """See `JobReport.address`."""
    failure: str = ""
    """Why the replica failed, where that has to do with its port; see `JobReport.message`."""


@dataclass(frozen=True, slots=True)
class _Boot:
    id: str


@dataclass(frozen=True, slots=True)
class _Stop:
    grace_s: float


@dataclass(frozen=True, slots=True)
class _Alone:
    since: float


def has_rebooted(home: Home, boot_id: Path = BOOT_ID) -> bool:
    """Whether the machine has restarted since an agent lived here last. From now on, this is the latest start.

    Where that cannot be written down, on a full disk for example, the next agent finds the same again.
    """
    try:
        now = _Boot(boot_id.read_text().strip())
    except OSError:
        return False  # this system has no such file
    known = read_json(home.boot, partial(from_plain, _Boot))
    is_first = known is None and not home.boot.exists()
    if known != now:
        try:
            write_json(home.boot, {"id": now.id}, durable=True)
        except OSError as error:  # the jobs need this agent all the same
            log.warning("The start of the machine is not written down: %s", error)
    return known != now and not is_first


def read_order(folder: JobFolder) -> JobOrder | None:
    """What was asked for. Without it, a job that has begun can only be ended, and one that has not is forgotten."""
    order = read_json(folder.order, partial(joined, folder))
    return order if order is not None and order.job_id == folder.job_id else None


def find_order(folder: JobFolder) -> JobOrder | None:
    """The order of a job; None where none was accepted.

    Where it is lost, one that says no more than how the job runs, so that it can be ended.
    """
    order = read_order(folder)
    has_begun = folder.pid.exists() or folder.container.exists() or folder.end.exists()
    if order is None and (has_begun or folder.order.exists()):
        container = Container("") if folder.container.exists() else None
        return JobOrder(folder.job_id, run_name="", script="", container=container)
    return order


def read_start(folder: JobFolder) -> Start | None:
    """The supervisor of a job; without it, the lock says whether it lives."""
    return read_json(folder.pid, partial(from_plain, Start))


def container_name(job_id: str) -> str:
    """The name of a job's container, by which the engine finds it too."""
    return f"dstack-{job_id}"


def read_container(folder: JobFolder) -> KnownContainer | None:
    """The container of a job; without it, the engine knows it by its name."""
    return read_json(folder.container, partial(from_plain, KnownContainer))


def ran_for_s(folder: JobFolder) -> float:
    """How long a container has run, by a clock that nobody can set and that all agents of this machine share."""
    known = read_container(folder)
    begun_s = None if known is None else known.started_monotonic_s
    return 0.0 if begun_s is None else time.monotonic() - begun_s


def read_ending(folder: JobFolder) -> Ending | None:
    """How a job ended; without it, its processes say whether it has, and nobody knows how."""
    return read_json(folder.end, partial(from_plain, Ending))


def read_grace_s(folder: JobFolder) -> float | None:
    """The grace that was asked for. That the file is there means that the job is to stop, whatever is in it."""
    wish = read_json(folder.stop, partial(from_plain, _Stop))
    return None if wish is None else wish.grace_s


def read_visible(folder: JobFolder) -> dict[str, str]:
    """The variables by which a job finds its own cards; none where it has no cards.

    Raises:
        OSError: it is not known any more which are its own: it must not find those of others.
    """
    found = read_json(folder.visible, lambda body: {str(name): str(value) for name, value in dict(body).items()})
    if found is None and folder.visible.exists():
        raise OSError(0, "the GPUs of the job are no longer known")
    return found or {}


def read_replica(folder: JobFolder) -> KnownReplica | None:
    """The port of a replica of a service; without it, its processes have it in their environment."""
    return read_json(folder.service, partial(from_plain, KnownReplica))


def read_alone(folder: JobFolder, started_at: float | None, now: float) -> float | None:
    """Since when nobody is in a job of an earlier agent.

    Who was in when that one ended was thrown out by its end, and has the whole time from now on to come back.
    """
    if (known := read_json(folder.alone, partial(from_plain, _Alone))) is not None:
        return known.since
    return now if folder.entered.exists() else started_at


def written_at(path: Path) -> float | None:
    """When a file was written, in seconds since the epoch; None where there is none."""
    with suppress(FileNotFoundError):
        return os.stat(path).st_mtime
    return None
