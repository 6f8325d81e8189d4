"""Views of the usage that jobs had of their machines."""

from dstack.protocol.base import Time, View


class GpuMetricsView(View, frozen=True, kw_only=True):
    """The usage of one GPU of a job at one time. Unknown values are None."""

    utilization_percent: float | None
    memory_mib: float | None


class MetricsPointView(View, frozen=True, kw_only=True):
    """The usage of a job at one time. Unknown values are None."""

    at: Time
    """The time by the clock of the job's machine."""
    cpu_cores: float | None
    """The number of busy cores, on average since the previous point."""
    memory_mib: float | None
    """The memory in use, in MiB, without cached files."""
    gpus: list[GpuMetricsView]
    """The usage of each GPU."""


class CardView(View, frozen=True, kw_only=True):
    """A GPU of a job."""

    name: str
    memory_mib: int


class MetricsView(View, frozen=True, kw_only=True):
    """The usage of one job: a point every ten seconds, and more often at first."""

    job_id: str
    replica: int
    node: int
    attempt: int
    cpu_cores: float | None
    """The job's limit of cores; None before the job has a machine."""
    memory_mib: float | None
    """The job's limit of memory, in MiB; None if it is unknown."""
    gpus: list[CardView]
    """The job's GPUs, in the order of each point's `gpus`."""
    points: list[MetricsPointView]


class TrafficPointView(View, frozen=True, kw_only=True):
    """The traffic of a service in ten seconds."""

    at: Time
    """The end of the ten seconds."""
    requests_per_s: float
    errors_per_s: float
    in_flight: int
    """The requests that were being answered, or waited for a replica."""
    held: int = 0
    """The requests that waited for a replica: the greatest number of these ten seconds."""
    latency_p50_s: float | None
    """The median time to the first byte of an answer, in seconds; None without requests."""
    latency_p95_s: float | None
    """The time within which 95 % of the answers began; as above."""
    replicas: int
    """The number of replicas that ran."""


class TrafficHistoryView(View, frozen=True, kw_only=True):
    """The traffic of a service over the last hour."""

    points: list[TrafficPointView]
