"""Server <-> agent messages: one stream each way of frames (`protocol.frames`) over a unix socket, which SSH forwards
from a remote host. `t` names a frame's kind.

    server -> agent                                 agent -> server
    hello   session, server, v, newest              welcome  agent, resources, ssh, jobs, more
                                                    jobs     jobs, more
    start   id, order                               reply    id, and error where it went wrong
    stop    id, job_id, grace_s                     job      report
    forget  id, job_id                              log      job_id, stream, offset, at, bytes
    authorize id, job_id, key                       log_gap  job_id, stream, offset, end, at
    follow  job_id, stream, offset                  want     hash
    log_ack job_id, stream, offset                  ssh      port, host_key
    blob    hash, bytes  (or missing: true)         engine   engine
    shutdown id                                     metrics  points
    ping    id

* `messages` has these as types, `bounds` their bounds, `versions` the versions that understand each other.
* Fields that have their default value are left out. Unknown types and fields are ignored, those of an order excepted:
  an agent outlives updates of its server, and a job must not run without a part of its order. `agent` in `welcome`
  lists the fields of an order that the agent knows, so that the server refuses a job instead of sending its order.
* A malformed frame of an agent ends the connection. The next one repeats all that is true, so that nothing is lost;
  a report that was only dropped would leave its job where it is. Points are not vital: those are dropped.
* `welcome` has the first reports, and `jobs` more of them for as long as `more` is set.
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

from dstack.kit.plain import to_short
from dstack.protocol.agent.bounds import PROSE_CHARS_MAX
from dstack.protocol.agent.messages import (
    FROM_AGENT,
    FROM_SERVER,
    Abilities,
    Acknowledged,
    Authorize,
    Blob,
    EngineFound,
    Follow,
    Forget,
    Frame,
    Hello,
    LogBytes,
    LogGap,
    Malformed,
    Measured,
    MoreReports,
    News,
    Ping,
    Refusal,
    Reply,
    ShutDown,
    Start,
    Stop,
    Want,
    WayIn,
    Welcomed,
    message_of,
)
from dstack.protocol.agent.orders import (
    FIRST_ORDER_FIELDS,
    ORDER_FIELDS,
    Container,
    GitSource,
    Header,
    JobOrder,
    Mount,
    Probe,
    Serving,
    order_of,
    unknown_fields,
)
from dstack.protocol.agent.points import CARDS_MAX, GpuPoint, Point, points_of, points_to_json
from dstack.protocol.agent.reports import LOG_STREAMS, JobReport, Layer
from dstack.protocol.agent.resources import Engine, Gpu, HostResources
from dstack.protocol.agent.versions import OLDEST_VERSION, PAGED_SINCE, VERSION, shared_version, what_to_do

__all__ = [
    "CARDS_MAX",
    "FIRST_ORDER_FIELDS",
    "FROM_AGENT",
    "FROM_SERVER",
    "LOG_FRAME_BYTES",
    "LOG_STREAMS",
    "LOG_TIME_EXACT_S",
    "LOG_WINDOW_BYTES",
    "OLDEST_VERSION",
    "ORDER_FIELDS",
    "PAGED_SINCE",
    "PROSE_CHARS_MAX",
    "VERSION",
    "Abilities",
    "Acknowledged",
    "Authorize",
    "Blob",
    "Container",
    "Engine",
    "EngineFound",
    "Follow",
    "Forget",
    "Frame",
    "GitSource",
    "Gpu",
    "GpuPoint",
    "Header",
    "Hello",
    "HostResources",
    "JobOrder",
    "JobReport",
    "Layer",
    "LogBytes",
    "LogGap",
    "Malformed",
    "Measured",
    "MoreReports",
    "Mount",
    "News",
    "Ping",
    "Point",
    "Probe",
    "Refusal",
    "Reply",
    "Serving",
    "ShutDown",
    "Start",
    "Stop",
    "Want",
    "WayIn",
    "Welcomed",
    "message_of",
    "order_of",
    "points_of",
    "points_to_json",
    "shared_version",
    "to_json",
    "unknown_fields",
    "what_to_do",
]

LOG_FRAME_BYTES = 256 << 10
LOG_WINDOW_BYTES = 2 << 20
LOG_TIME_EXACT_S = 0.1
"""The resolution of the times of bytes: bytes within this time may share the time of the first."""


def to_json(value: JobOrder | JobReport | HostResources) -> Frame:
    """Return a part of a message as it crosses the wire."""
    return dict(to_short(value))
