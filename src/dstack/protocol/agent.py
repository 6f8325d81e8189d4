"""Server <-> agent messages: one stream each way of frames (`protocol.frames`) over a unix socket, which SSH forwards
from a remote host. `t` names a frame's kind.

    server -> agent                                 agent -> server
    hello   session, server                         welcome  agent, resources, ssh, jobs
    start   id, order                               reply    id, and error where it went wrong
    stop    id, job_id, grace_s                     job      report
    forget  id, job_id                              log      job_id, stream, offset, at, bytes
    authorize id, job_id, key                       log_gap  job_id, stream, offset, end, at
    follow  job_id, stream, offset                  want     hash
    log_ack job_id, stream, offset
    blob    hash, bytes  (or missing: true)
    shutdown id                                     metrics  points
    ping    id

* `agent` in `welcome` lists the fields of an order that the agent knows: a server leaves out all others, since an agent
  outlives updates of its server.
* The server speaks first (`hello`); a later `hello` on another connection ends this one, so that a server that was
  thought dead cannot act any more (fencing: the agent also refuses a `session` lower than the highest it has seen).
* `start`, `stop`, `forget`, `authorize`, `shutdown` and `ping` are answered by `reply` with the same `id`, and may be
  sent again: all are idempotent by job. `stop` or `forget` of an unknown job succeeds, and a `start` that arrives after
  it is refused.
* A *report* is the whole truth about one job, never a change: sent at `welcome` for every job the agent has, and again
  whenever it differs. Losing one costs nothing, so reports are neither numbered nor acknowledged. A job's folder
  stays until `forget`, which the server sends once it has stored the end of the job and all of its log.
* Log bytes flow after `follow`, from `offset`; the agent keeps at most `LOG_WINDOW_BYTES` under way per job and
  stream, and sends a final report with `logged: true` once the job has ended and every byte of its streams is
  acknowledged.
* `log_ack` reports that all bytes before `offset` are stored: the agent may free their space on its disk.
  If a job prints more than the agent may keep until then, it drops the oldest bytes. `log_gap` takes their place among
  the `log` frames: the bytes from `offset` up to `end` will never come, the next ones follow at `end`. It is
  acknowledged like bytes.
* `metrics` has points (`Point`) by job. They are not vital, and not acknowledged. An agent keeps those of the last hour
  while the server is away, and repeats those of the last minute on each connection. Job and time identify a point, so
  a repeated one changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dstack.kit.plain import to_plain

VERSION = 1
LOG_FRAME_BYTES = 256 << 10
LOG_WINDOW_BYTES = 2 << 20
LOG_TIME_EXACT_S = 0.1
"""The resolution of the times of bytes: bytes within this time may share the time of the first."""

TIME_MAX = 1 << 36
"""Seconds since the epoch: some time in the year 4147."""
NUMBER_MAX = 1 << 40
"""No cores, percent or MiB are as many."""
CARDS_MAX = 64

LOG_STREAMS = ("job", "agent")
"""`job` is the output of the job; `agent` has the messages of the agent about it."""


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


ORDER_FIELDS = tuple(one.name for one in fields(JobOrder))
FIRST_ORDER_FIELDS = frozenset(ORDER_FIELDS) - {"path", "python", "repo_path"}
"""The fields of an order that an agent knows whose `welcome` does not list them. It refuses any other."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image that is being pulled."""

    id: str
    got_bytes: int
    size_bytes: int | None
    """None while it is not known."""
    ready: bool
    """Whether it is unpacked."""


@dataclass(frozen=True, slots=True)
class JobReport:
    """The whole truth about one job on its host."""

    job_id: str
    state: str
    """`preparing`, `running` or `ended`."""
    started_at: float | None = None
    """Seconds since the epoch by the host's clock."""
    ended_at: float | None = None
    end: str | None = None
    """The reason of its end: `exited`, `stopped`, `max_duration`, `start_failed`, `supervisor_lost`, `engine_lost`, or
    `host_failed`. The last means that the host could not start it: another host may, and this one later."""
    exit_code: int | None = None
    """0..255; 128 + n after signal n; None if it is not known."""
    signal: int | None = None
    message: str = ""
    """A text for people: the failure, or before the start the current work."""
    log_bytes: int | None = None
    """All bytes the job ever printed; known once it has ended."""
    logged: bool = False
    """Whether the server has acknowledged all bytes of all streams."""
    layers: tuple[Layer, ...] = ()
    """While its image is being pulled: the layers."""
    working_dir: str | None = None
    """Where its commands started: absolute, as those see it who are inside. Known once it runs."""
    guests: int = 0
    """How many connections there are into it over SSH."""
    alone_since: float | None = None
    """The time since which no user is connected, in seconds since the epoch by the host's clock. None while one is, and
    before the job runs."""


@dataclass(frozen=True, slots=True)
class GpuPoint:
    """The use of one of a job's GPUs at one time; None for values that it does not report."""

    utilization_percent: float | None
    memory_mib: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """The usage of a job at one time; None for values that cannot be read."""

    at: float
    """Seconds since the epoch by the host's clock, whole milliseconds."""
    cpu_cores: float | None
    """How many cores were busy for it, on average since the point before."""
    memory_mib: float | None
    """The memory that it needs to continue: without cached files that could be read again."""
    gpus: tuple[GpuPoint, ...] = ()
    """Of each of the job's cards, in the order of `JobOrder.gpus`."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card or accelerator of a host."""

    vendor: str
    """`nvidia`, `amd`, `intel` or `google`."""
    name: str
    """The model without its vendor; the PCI numbers of an unknown model, as `0x1002:0x74a1`."""
    memory_mib: int
    compute_capability: str | None = None
    """Of NVIDIA's: `9.0`."""
    gone: bool = False
    """It is not to be found any more, and has its place still, because of those behind it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine."""

    name: str
    """`docker` or `podman`."""
    version: str
    machine: str
    """As `uname -m` names it."""


@dataclass(frozen=True, slots=True)
class HostResources:
    """The detected resources of a host."""

    cpus: int
    memory_mib: int
    disk_mib: int
    """Free where jobs put their files."""
    gpus: tuple[Gpu, ...] = ()
    engine: Engine | None = None
    engine_problem: str = ""
    """Why there is no container engine, for people."""
    arch: str = ""
    """The architecture of its processors: `x86`, `arm`, another one's own name, or nothing where it is not known."""
    pythons: tuple[str, ...] = ()
    """The versions of Python, such as `3.12`, of which virtual environments can be made for processes."""


def to_json(value: JobOrder | JobReport | HostResources) -> dict[str, Any]:
    """Return a message part as it crosses the wire. Flags of mounts that are not set are left out: an agent of an
    earlier version does not know them."""
    plain: dict[str, Any] = to_plain(value)
    if container := plain.get("container"):
        container["mounts"] = [
            {name: part for name, part in mount.items() if part is not False} for mount in container["mounts"]
        ]
    return plain


def order_of(body: dict[str, Any]) -> JobOrder:
    """The order in a `start` frame."""
    git, container = body.get("git"), body.get("container")
    return JobOrder(
        **{
            **body,
            "git": GitSource(**git) if git else None,
            "authorized_keys": tuple(body.get("authorized_keys", ())),
            "container": _container_of(container) if container else None,
            "gpus": tuple(body.get("gpus", ())),
        }
    )


def _container_of(body: dict[str, Any]) -> Container:
    entrypoint = body.get("entrypoint")
    return Container(
        **{
            **body,
            "entrypoint": None if entrypoint is None else tuple(entrypoint),
            "mounts": tuple(Mount(**mount) for mount in body.get("mounts", ())),
            "files": tuple(body.get("files", ())),
        }
    )


def report_of(body: dict[str, Any]) -> JobReport:
    """The report in a `job` frame or in `welcome`."""
    return JobReport(**{**body, "layers": tuple(Layer(**layer) for layer in body.get("layers", ()))})


def points_to_json(points: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    """The points of some jobs, as short as they are many."""
    return {
        job_id: [
            [one.at, one.cpu_cores, one.memory_mib, [[gpu.utilization_percent, gpu.memory_mib] for gpu in one.gpus]]
            for one in some
        ]
        for job_id, some in points.items()
    }


def points_of(body: dict[str, Any]) -> dict[str, list[Point]]:
    """The points in a `metrics` frame.

    Raises:
        ValueError: there is something else in it.
    """
    try:
        return {job_id: [_point_of(*one) for one in some] for job_id, some in body.items()}
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"metrics expected: {error}") from error


def _point_of(at: float, cpu_cores: float | None, memory_mib: float | None, gpus: list[list[float | None]]) -> Point:
    if not 0 <= at < TIME_MAX:
        raise ValueError(f"there is no time {at}")
    if len(gpus) > CARDS_MAX:
        raise ValueError(f"no job has {len(gpus)} cards")
    cards = tuple(GpuPoint(_number(utilization), _number(memory)) for utilization, memory in gpus)
    return Point(round(at, 3), _number(cpu_cores), _number(memory_mib), cards)


def _number(value: float | None) -> float | None:
    if value is not None and not 0 <= value < NUMBER_MAX:
        raise ValueError(f"nobody uses {value}")
    return value


def resources_of(body: dict[str, Any]) -> HostResources:
    """The resources in a `welcome` frame."""
    gpus, engine = tuple(Gpu(**gpu) for gpu in body.get("gpus", ())), body.get("engine")
    pythons = tuple(str(version) for version in body.get("pythons", ()))
    return HostResources(**{**body, "gpus": gpus, "engine": Engine(**engine) if engine else None, "pythons": pythons})
