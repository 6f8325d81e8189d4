"""Server <-> agent messages: one stream each way of frames (`protocol.frames`) over a unix socket, which SSH forwards
from a remote host. `t` names a frame's kind.

    server -> agent                                 agent -> server
    hello   session, server                         welcome  agent, resources, ssh, jobs
    start   id, order                               reply    id, and error where it went wrong
    stop    id, job_id, grace_s                     job      report
    forget  id, job_id                              log      job_id, stream, offset, at, bytes
    authorize id, job_id, key                       want     hash
    follow  job_id, stream, offset
    log_ack job_id, stream, offset
    blob    hash, bytes  (or missing: true)
    shutdown id
    ping    id

* The server speaks first (`hello`); a later `hello` on another connection ends this one, so that a server that was
  thought dead cannot act any more (fencing: the agent also refuses a `session` lower than the highest it has seen).
* `start`, `stop`, `forget`, `authorize`, `shutdown` and `ping` are answered by `reply` with the same `id`, and may be
  sent again: all are idempotent by job. `stop` or `forget` of an unknown job succeeds, and a `start` that arrives after
  it is refused.
* A *report* is the whole truth about one job, never a change: sent at `welcome` for every job the agent has, and again
  whenever it differs. Losing one costs nothing, so reports are neither numbered nor acknowledged. A job's folder
  stays until `forget`, which the server sends once it has stored the end of the job and all of its log.
* Log bytes flow after `follow`, from `offset`; the agent keeps at most `LOG_WINDOW_BYTES` unacknowledged per job and
  stream, and sends a final report with `logged: true` once the job has ended and every byte of its streams is
  acknowledged.
"""

from dataclasses import dataclass, field
from typing import Any

from dstack.kit.plain import to_plain

VERSION = 1
LOG_FRAME_BYTES = 256 << 10
LOG_WINDOW_BYTES = 2 << 20
LOG_TIME_EXACT_S = 0.1
"""How exactly it is known when a byte was printed: what comes within this time may share the time of the first."""

LOG_STREAMS = ("job", "agent")
"""`job` is what the job prints; `agent` is what the agent has to say about it."""


@dataclass(frozen=True, slots=True)
class GitSource:
    """A commit of a remote Git repository, and how to get it."""

    url: str
    branch: str | None = None
    hash: str | None = None
    """The newest commit of the branch without it."""
    private_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


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
    """Relative to the job's folder of files; never outside it."""
    files_root: str | None = None
    """The hash of the root manifest (`protocol.files`), or None for none."""
    git: GitSource | None = None
    """What to clone first; the files of the manifest then go on top."""
    max_duration_s: float | None = None
    stop_grace_s: float = 10.0
    """Between SIGTERM and SIGKILL when `max_duration_s` has passed or leftovers of the job are ended."""
    authorized_keys: tuple[str, ...] = ()
    """OpenSSH public keys that may open the way into this job."""


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
    """Once ended, why: `exited`, `stopped`, `max_duration`, `start_failed` or `supervisor_lost`."""
    exit_code: int | None = None
    """0..255; 128 + n after signal n; None where nobody knows."""
    signal: int | None = None
    message: str = ""
    """For people: what went wrong, where something did."""
    log_bytes: int | None = None
    """All bytes the job ever printed; known once it has ended."""
    logged: bool = False
    """Whether the server has acknowledged all bytes of all streams."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card or accelerator of a host."""

    vendor: str
    name: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class HostResources:
    """What a host really has."""

    cpus: int
    memory_mib: int
    disk_mib: int
    """Free where jobs put their files."""
    gpus: tuple[Gpu, ...] = ()


def to_json(value: JobOrder | JobReport | HostResources) -> dict[str, Any]:
    """A message part as it crosses the wire."""
    plain: dict[str, Any] = to_plain(value)
    return plain


def order_of(body: dict[str, Any]) -> JobOrder:
    """The order in a `start` frame."""
    git = body.get("git")
    keys = tuple(body.get("authorized_keys", ()))
    return JobOrder(**{**body, "git": GitSource(**git) if git else None, "authorized_keys": keys})


def report_of(body: dict[str, Any]) -> JobReport:
    """The report in a `job` frame or in `welcome`."""
    return JobReport(**body)


def resources_of(body: dict[str, Any]) -> HostResources:
    """The resources in a `welcome` frame."""
    return HostResources(**{**body, "gpus": tuple(Gpu(**gpu) for gpu in body.get("gpus", ()))})
