"""The messages of both sides as types, and a table of them for each side. A frame is judged before it is used.

A type that is not in the table is ignored, as is an unknown field: another version may know it. An order alone must be
known in full. A value of a wrong type, or beyond its bound (`bounds`), makes a frame malformed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dstack.kit.plain import from_plain
from dstack.protocol.agent.bounds import bounded
from dstack.protocol.agent.reports import JobReport
from dstack.protocol.agent.resources import Engine, HostResources

Frame: TypeAlias = dict[str, Any]


class Malformed(ConnectionError):
    """A frame of a known type has a field that is missing, of a wrong type or beyond its bound."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error in a reply."""

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command, or to a `hello` that the agent refuses."""

    id: int | None = None
    error: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Abilities:
    """The part of the protocol that an agent understands."""

    v: int = 1
    """The version that it has chosen."""
    order: tuple[str, ...] | None = None
    """The fields of an order that it knows."""


@dataclass(frozen=True, slots=True)
class WayIn:
    """The SSH server of an agent."""

    port: int
    host_key: str


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The first page of a welcome."""

    resources: HostResources
    agent: Abilities = Abilities()
    ssh: WayIn | None = None
    jobs: tuple[JobReport, ...] = ()
    more: bool = False
    """Whether another page follows."""


@dataclass(frozen=True, slots=True)
class MoreReports:
    """Another page of a welcome."""

    jobs: tuple[JobReport, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class News:
    """A job has changed."""

    report: JobReport


@dataclass(frozen=True, slots=True)
class LogBytes:
    """Bytes of a log stream; they are the frame's payload."""

    job_id: str
    stream: str
    offset: int
    at: float
    """When they were printed at the latest, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class LogGap:
    """Bytes of a log stream that will never come."""

    job_id: str
    stream: str
    offset: int
    end: int
    at: float
    """When they were printed at the latest, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Points of some jobs."""

    points: dict[str, Any]
    """As `points_of` reads them."""


@dataclass(frozen=True, slots=True)
class Want:
    """A question for a blob."""

    hash: str


@dataclass(frozen=True, slots=True)
class EngineFound:
    """A container engine is there from now on."""

    engine: Engine


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a server."""

    session: int
    server: str
    v: int = 1
    """The oldest version that it speaks: an agent of version 1 takes it for the only one."""
    newest: int | None = None
    """The newest version that it speaks; None if that is the oldest."""


@dataclass(frozen=True, slots=True)
class Follow:
    """A request for a log stream."""

    job_id: str
    stream: str
    offset: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """All bytes of a log stream before `offset` are stored."""

    job_id: str
    stream: str
    offset: int


@dataclass(frozen=True, slots=True)
class Blob:
    """The answer to a `want`; the blob is the frame's payload."""

    hash: str
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """The command to start a job."""

    id: int
    order: dict[str, Any]
    """As `order_of` reads it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The command to end a job."""

    id: int
    job_id: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Forget:
    """The command to remove an ended job."""

    id: int
    job_id: str


@dataclass(frozen=True, slots=True)
class Authorize:
    """The command to let the owner of a key into a job."""

    id: int
    job_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Ping:
    """The command to answer."""

    id: int


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The command to end all jobs, and then the agent."""

    id: int


FROM_AGENT: Mapping[str, type] = {
    "welcome": Welcomed,
    "jobs": MoreReports,
    "reply": Reply,
    "job": News,
    "log": LogBytes,
    "log_gap": LogGap,
    "metrics": Measured,
    "want": Want,
    "ssh": WayIn,
    "engine": EngineFound,
}
"""The messages of an agent."""

FROM_SERVER: Mapping[str, type] = {
    "hello": Hello,
    "follow": Follow,
    "log_ack": Acknowledged,
    "blob": Blob,
    "start": Start,
    "stop": Stop,
    "forget": Forget,
    "authorize": Authorize,
    "shutdown": ShutDown,
    "ping": Ping,
}
"""The messages of a server."""

Decoder: TypeAlias = Callable[[type, Frame], Any]
"""Reads a frame as a message: ignores unknown fields, and raises `ValueError` where another one is wrong."""


def message_of(kinds: Mapping[str, type], frame: Frame, decoder: Decoder = from_plain) -> Any:
    """Return a frame as a message; None if its type is not in the table.

    Args:
        kinds: the table of the side that sends.

    Raises:
        Malformed: a field is missing, of a wrong type or beyond its bound.
    """
    name = frame.get("t")
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        return None
    try:
        return bounded(decoder(kind, frame))
    except ValueError as error:
        raise Malformed(f"a malformed message `{name}`: {error}") from error
