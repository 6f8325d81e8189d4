"""The messages between a server and its data plane: routes one way, counters and facts of replicas the other.

Each message is a JSON object in a frame (`kit/passing.py`). A `Listener`, a `Connection` and a `Held` carry a socket.
"""

from typing import TypeAlias

from msgspec import Struct, json

LOCK = "lock"
"""The file in the folder of a data plane that a living one has locked. It contains the process id."""
LEAVING = "leaving"
"""The folder beside it with a file of each data plane that leaves, which has locked it. The file has the ids of the
jobs whose requests the data plane finishes, as JSON."""
FRAME_BYTES_MAX = 64 << 20
"""A snapshot of 10,000 services with their tokens has about 10 MB."""

SERVICES_PREFIX = "/proxy/services/"
MODELS_PREFIX = "/proxy/models/"
EVERY_PROJECT = "*"
HELD_MAX = 256
"""The number of connections that a server keeps for a data plane: it has few descriptors."""
_OURS = b"/proxy/"
_LOOKED_AT = 1024
"""Bytes of a request, for its method and the beginning of its target."""
_METHOD_BYTES_MAX = 32


class Tcp(Struct, frozen=True, tag="tcp"):
    """A port that the data plane reaches by itself."""

    host: str
    port: int


class Channel(Struct, frozen=True, tag="channel"):
    """A port that an agent connects to: see `hosts/channels.py`."""

    socket_path: str
    job_id: str
    port: int


Target: TypeAlias = Tcp | Channel


class Replica(Struct, frozen=True):
    """One job of a service that takes requests, or finishes those that it has."""

    job_id: str
    number: int
    target: Target


class Limit(Struct, frozen=True):
    """A limit of requests a second below a path."""

    prefix: str
    rps: float
    burst: int
    header: str | None = None
    """The header by whose values clients are counted; None for the client's address."""


class Model(Struct, frozen=True):
    """The model behind a service."""

    name: str
    format: str
    """`openai` or `tgi`."""
    prefix: str = "/v1"
    chat_template: str | None = None
    eos_token: str | None = None
    created_at: int = 0
    """In seconds since the epoch."""


class Service(Struct, frozen=True):
    """All that a data plane needs to know of one service."""

    id: str
    """That of its run."""
    project: str
    name: str
    auth: bool = True
    strip_prefix: bool = True
    limits: tuple[Limit, ...] = ()
    model: Model | None = None
    replicas: tuple[Replica, ...] = ()
    """Those that are ready."""
    draining: tuple[Replica, ...] = ()
    """Those that take no new requests, and finish what they have."""
    waits_for: str = ""
    """Why no replica is ready, for people."""
    starts: bool = False
    """Whether none is ready and one is on its way, or starts for the first request: requests wait for it."""


class Snapshot(Struct, frozen=True, tag="snapshot"):
    """All routes. Replaces what the data plane had."""

    version: int
    services: tuple[Service, ...]
    tokens: dict[str, tuple[str, ...]]
    """By the SHA-256 of a token, in hex: the projects whose services it may call; `EVERY_PROJECT` for all."""


class Changes(Struct, frozen=True, tag="changes"):
    """The difference to the routes of an earlier version."""

    version: int
    since: int
    services: tuple[Service, ...] = ()
    """Those that are new or different, each as a whole."""
    removed: tuple[str, ...] = ()
    """Ids."""
    tokens: dict[str, tuple[str, ...]] = {}
    """Those that are new or different; one without projects is revoked."""


class Listener(Struct, frozen=True, tag="listener"):
    """The socket at which clients connect, as a file descriptor; both processes share it."""


class Connection(Struct, frozen=True, tag="connection"):
    """A client's connection, as a file descriptor, whose next request is for the other process."""

    received: bytes
    """The bytes that have been read of that request."""


class Release(Struct, frozen=True, tag="release"):
    """The address is needed: the data plane closes its listening socket, then this connection, and goes on."""


class Leave(Struct, frozen=True, tag="leave"):
    """The data plane is no longer needed: it finishes what it has, and ends."""


class Hello(Struct, frozen=True, tag="hello"):
    """The state of a data plane: after a server has connected, and where `Changes` do not fit its routes."""

    pid: int
    version: str
    """Of dstack. A server of another version starts a new data plane."""
    routes: int
    """The version of its routes; 0 for none."""


class Count(Struct, frozen=True):
    """Exact sums of one service since the data plane has started."""

    requests: int
    """Those that are answered."""
    errors: int
    """Those of them whose answer has a status of 500 or more, or did not arrive in full."""
    in_flight: int
    """Those that are being answered now."""
    latencies: tuple[int, ...]
    """The number of answers by the time to their first byte: see `LATENCIES_S`."""
    held: int = 0
    """Those in flight that wait for a replica."""


LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""The upper bounds of the classes of latencies; one class more has the rest."""


class Counted(Struct, frozen=True, tag="counted"):
    """The sums of the services that had requests since the last message, or have some in flight."""

    epoch: str
    """Another one after each start of the data plane: its sums begin at zero."""
    services: dict[str, Count]
    is_late: bool = False
    """Whether some requests came long before, while no server heard of them."""


class ReplicaState(Struct, frozen=True, tag="replica_state"):
    """A replica that can be reached, or no longer."""

    job_id: str
    is_up: bool
    reason: str = ""


class Drained(Struct, frozen=True, tag="drained"):
    """A draining replica has no request left here."""

    job_id: str


class Held(Struct, frozen=True, tag="held"):
    """The connection of a request that waits in the data plane, as a file descriptor.

    The server keeps it until it is released. If the data plane is lost, the next one gets it.
    """

    id: int
    received: bytes
    """The whole request, and what has been read behind it."""


class Released(Struct, frozen=True, tag="released"):
    """Requests whose connections the server no longer keeps: they run, are answered, or have lost their clients."""

    ids: tuple[int, ...]


FromServer: TypeAlias = Snapshot | Changes | Listener | Connection | Release | Leave
FromDataPlane: TypeAlias = Hello | Listener | Connection | Counted | ReplicaState | Drained | Held | Released

from_server = json.Decoder(FromServer)
from_data_plane = json.Decoder(FromDataPlane)


def service_path(project: str, name: str) -> str:
    """Return the path of a service.

    Examples:
        >>> service_path("main", "web"), models_path("main")
        ('/proxy/services/main/web/', '/proxy/models/main')
    """
    return f"{SERVICES_PREFIX}{project}/{name}/"


def models_path(project: str) -> str:
    """Return the path of a project's OpenAI-compatible API: the `base_url` of a client."""
    return f"{MODELS_PREFIX}{project}"


def is_for_data_plane(start: bytes) -> bool | None:
    """Return whether a request is for the data plane, by its first bytes; None where more of them are needed.

    Examples:
        >>> [is_for_data_plane(start) for start in (b"GET /proxy/services/main/web/", b"GET /api/runs", b"GET /pro")]
        [True, False, None]
    """
    line = start[:_LOOKED_AT].lstrip(b"\r\n")
    _, space, target = line.partition(b" ")
    if not space:
        return None if len(line) < _METHOD_BYTES_MAX and b"\n" not in line else False
    if target[:1] in (b"h", b"H"):  # http://host/path
        scheme = target.find(b"://")
        path = target.find(b"/", scheme + 3)
        if scheme < 0 or path < 0:
            return None if len(line) < _LOOKED_AT and b"\n" not in target and b" " not in target else False
        target = target[path:]
    if len(target) < len(_OURS):
        return None if _OURS.startswith(target) else False
    return target.startswith(_OURS)
