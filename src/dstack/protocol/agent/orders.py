"""The order for a job: all that an agent must know to run it.

A default never changes: a field that has it does not cross the wire, and each side fills it in.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from dstack.kit.plain import from_plain, to_short


@dataclass(frozen=True, slots=True)
class GitSource:
    """A commit of a remote Git repository, and how to get it."""

    url: str
    branch: str | None = None
    hash: str | None = None
    """Without it the newest commit of the branch, or of the tag of that name; without both, the remote's HEAD."""
    private_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    parts_sent: bool = False
    """Whether submodules and files in Git LFS are among the files that lie over the clone."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host, and where a container finds it."""

    source: str
    """Absolute, on the host; made where it does not exist."""
    path: str
    """Absolute, in the container."""
    read_only: bool = False
    optional: bool = False
    """Whether the job runs without it where the folder cannot be made."""


@dataclass(frozen=True, slots=True)
class Container:
    """The container that a job runs in."""

    image: str
    """As users write it: `ubuntu`, `ghcr.io/team/app:1.2`, `app@sha256:…`."""
    username: str | None = None
    """The user who pulls the image, if it is private."""
    password: str | None = field(default=None, repr=False)
    entrypoint: tuple[str, ...] | None = None
    """The program to start instead of the image's own entrypoint."""
    user: str | None = None
    """`name_or_id[:group_name_or_id]`; the image's own where unset."""
    privileged: bool = False
    shm_bytes: int | None = None
    mounts: tuple[Mount, ...] = ()
    files: tuple[str, ...] = ()
    """The absolute paths at which some of the run's files shall lie; see `protocol.files.ABSOLUTE`."""
    host_network: bool = False
    """Whether it shares the host's network; else it has one of its own behind the host."""
    cpus: float | None = None
    memory_bytes: int | None = None
    """The limits of its use; all of the host by default."""


@dataclass(frozen=True, slots=True)
class Header:
    """One header of a probe's request."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP request that checks whether a replica is ready. An answer of 2xx is a success."""

    path: str = "/"
    """With its query."""
    method: str = "get"
    headers: tuple[Header, ...] = ()
    body: str | None = None
    timeout_s: float = 10.0
    interval_s: float = 15.0
    """Between two requests, once one has succeeded."""
    ready_after: int = 1
    """The number of successes in a row after which the replica is ready."""
    until_ready: bool = False
    """Whether the probe ends once the replica is ready."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The part of a replica of a service: its port, and the checks of its readiness."""

    port: int
    """As it is configured. A process finds its own in `PORT`: another one where this one is taken on its host."""
    probes: tuple[Probe, ...] = ()
    """Without any, the replica is ready once its port accepts a connection."""


@dataclass(frozen=True, slots=True)
class JobOrder:
    """All an agent must know to run one job; values are final, nothing is looked up later."""

    job_id: str
    run_name: str
    script: str
    """A bash-or-sh script; its exit code is the job's."""
    shell: str | None = None
    """`bash`, `sh`, or None for bash where there is one and sh where not."""
    env: dict[str, str] = field(default_factory=dict)
    working_dir: str = "."
    """Relative to the job's folder of files and never outside it; or absolute, in a container."""
    files_root: str | None = None
    """The hash of the root manifest (`protocol.files`), or None for none."""
    git: GitSource | None = None
    """The repo to clone first; the files of the manifest are then laid over it."""
    repo_path: str = "."
    """The place of the clone: relative to the job's folder of files, or absolute, in a container."""
    max_duration_s: float | None = None
    stop_grace_s: float = 10.0
    """Between SIGTERM and SIGKILL when `max_duration_s` has passed or leftovers of the job are ended."""
    authorized_keys: tuple[str, ...] = ()
    """OpenSSH public keys that may open the way into this job."""
    container: Container | None = None
    """None for a plain process of the host."""
    gpus: tuple[int, ...] = ()
    """The cards that are its own, as indices into `HostResources.gpus`; it sees no others."""
    path: str | None = None
    """Of a process: the submitter's `PATH`, where that is one of this host; the agent's own otherwise."""
    python: str | None = None
    """Of a process: the version of Python, one of `HostResources.pythons`, that it gets a virtual environment of."""
    service: Serving | None = None
    """Of a replica of a service. An agent that does not know it would neither give it a port nor report that it is
    ready: the job does not start there."""


ORDER_FIELDS = tuple(one.name for one in fields(JobOrder))
FIRST_ORDER_FIELDS = frozenset(ORDER_FIELDS) - {"path", "python", "repo_path", "service"}
"""The fields of an order that an agent knows whose `welcome` does not list them."""
DISPENSABLE = frozenset({"path"})
"""The fields without which a job runs all the same: an agent that does not know them does not get them."""


def unknown_fields(order: JobOrder, known: Collection[str]) -> list[str]:
    """Return the fields that an agent must know to carry out an order, and does not.

    Args:
        known: the fields of an order that it knows.

    Examples:
        >>> unknown_fields(JobOrder("1", "run", "true", path="/bin", repo_path="/src"), FIRST_ORDER_FIELDS)
        ['repo_path']
    """
    return [name for name in to_short(order) if name not in known and name not in DISPENSABLE]


def order_of(body: dict[str, Any]) -> JobOrder:
    """Return the order in a `start` frame.

    Raises:
        ValueError: a field is missing, unknown, or of another type. An order is carried out whole or not at all.
    """
    return from_plain(JobOrder, body, whole=True)
