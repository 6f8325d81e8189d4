"""The state of one job on its host, as its agent reports it."""

from dataclasses import dataclass

LOG_STREAMS = ("job", "agent")
"""`job` is the output of the job; `agent` has the messages of the agent about it."""


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
    """The reason of its end: `exited`, `stopped`, `max_duration`, `start_failed`, `supervisor_lost`, `engine_lost`,
    `ports_binding_failed`, or `host_failed`. The last means that the host could not start it: another host may, and
    this one later."""
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
    port: int | None = None
    """The port at which a replica of a service is to listen, as it finds it in `PORT`."""
    address: str | None = None
    """The address at which the host itself reaches the port: a loopback, or a container's.

    None before one is known, and for a container that only a channel reaches.
    """
    ready: bool | None = None
    """Whether a replica of a service takes requests. None for other jobs, and once it has ended."""
    unready_reason: str = ""
    """A text for people: why it is not ready."""
