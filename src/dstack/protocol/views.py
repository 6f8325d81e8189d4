"""The objects that the API returns."""

from typing import Any

from dstack.protocol.base import Time, View
from dstack.protocol.runtimes import Runtime
from dstack.protocol.services import ServiceView
from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus, RunStatus


class Problem(View, frozen=True, kw_only=True):
    """An error (RFC 9457, `application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    """The `code` of a class in `dstack.errors`."""
    detail: str
    """A message for people: the error and its cause."""
    hint: str | None = None
    """The next step, for people."""
    mistakes: list["MistakeView"] = []
    """The mistakes in the data of the request, which `detail` lists too."""


class HealthView(View, frozen=True, kw_only=True):
    """A sign of life of the server."""

    status: str = "ok"
    version: str
    embedded: bool
    """Whether a command that needed the server started it in the background."""


class OfferView(View, frozen=True, kw_only=True):
    """A type of machine in a region, with its price and availability."""

    backend: str
    """The type of the backend, such as `aws`."""
    region: str
    instance_type: str
    resources: str
    """A text for people, such as `2xCPU, 8GB, 100GB (disk), 1xA100 (40GB)`."""
    spot: bool
    price: float
    """The price in US dollars an hour."""
    availability: str
    """`available` to create, or the status of the existing instance, such as `idle` or `busy`."""
    backend_name: str | None = None
    """The backend's name; None from a server of an earlier version."""


class ChangeView(View, frozen=True, kw_only=True):
    """One field of a configuration that differs from the active run of that name."""

    field: str
    old: str | None
    """The value of the active run; None if the field is not set."""
    new: str | None
    """The value of the configuration; None if the field is not set."""
    in_place: bool
    """Whether the change can be made while the run is active. If not, stop the run and submit it again."""
    by_rollout: bool = False
    """Whether a service goes on meanwhile, and its replicas are replaced one by one."""


class MistakeView(View, frozen=True, kw_only=True):
    """A mistake or an old spelling in a configuration."""

    path: list[str | int]
    text: str


class ConfigurationView(View, frozen=True, kw_only=True):
    """A configuration in canonical form with notes about old spellings, or its mistakes."""

    configuration: dict[str, Any]
    """The configuration with its `type`, and only the fields that were set; empty if there are mistakes."""
    ports: dict[int, int | None] = {}
    """Container port to local port; None stands for any free one (`*:80`)."""
    notes: list[MistakeView] = []
    mistakes: list[MistakeView] = []
    document: int | None = None
    """The document with the mistakes: 0 for the configuration, 1 for the first file of profiles. None for the whole."""


class PlanView(View, frozen=True, kw_only=True):
    """The effect of a submit before it happens."""

    project: str
    user: str
    run_name: str | None
    spec: dict[str, Any]
    offers: list[OfferView]
    """The best fitting offers, cheapest first."""
    offers_total: int
    """The number of all fitting offers."""
    max_price: float | None
    """The highest price among all fitting offers, in US dollars an hour."""
    refusals: list[str]
    """The reasons why other machines do not fit, nearest first, and the backends that do not answer."""
    current: "RunView | None" = None
    """The active run of this name; None without one."""
    changes: list[ChangeView] = []
    """The differences from that run."""
    waits: str | None = None
    """The reason why the run would wait in the queue; None if it would start at once."""
    resources: str = ""
    """The requirements for each machine: a text for people, such as `2..xCPU, 8GB.., 100GB.. (disk)`."""
    image: str | None = None
    """The image of the jobs' containers on the best offer; None if they run as processes."""


class SecretView(View, frozen=True, kw_only=True):
    """A secret of a project."""

    name: str
    updated_at: Time
    value: str | None = None
    """The value; None in lists."""


class SecretList(View, frozen=True, kw_only=True):
    """All secrets of a project, without their values."""

    secrets: list[SecretView]


class RepoView(View, frozen=True, kw_only=True):
    """A repo that the user has initialized in a project."""

    id: str
    kind: str
    url: str | None


class RepoList(View, frozen=True, kw_only=True):
    """All repos that the user has initialized in a project."""

    repos: list[RepoView]


class InstanceView(View, frozen=True, kw_only=True):
    """An instance: the server's record of one machine."""

    id: str
    backend: str
    """The type of the backend, such as `aws`."""
    region: str
    instance_type: str
    status: InstanceStatus
    hostname: str | None
    """The machine's name or address; None until it is known."""
    price: float
    """The price in US dollars an hour."""
    resources: str
    """A text for people, such as `2xCPU, 8GB, 100GB (disk), 1xA100 (40GB)`."""
    detail: str = ""
    """The reason why the instance takes no jobs; empty if it takes jobs."""
    backend_name: str | None = None
    """The backend's name; None from a server of an earlier version."""


class InstanceList(View, frozen=True, kw_only=True):
    """The instances that a project uses or may use."""

    instances: list[InstanceView]


class AttemptView(View, frozen=True, kw_only=True):
    """A finished attempt of a job."""

    id: str
    attempt: int
    revision: int | None = None
    """The revision of the run that it was made from."""
    status: JobStatus
    reason: JobReason | None
    detail: str
    exit_code: int | None
    submitted_at: Time
    started_at: Time | None
    finished_at: Time | None
    instance_id: str | None
    price: float | None = None
    """The price of its instance, in US dollars an hour."""


class PullView(View, frozen=True, kw_only=True):
    """The progress of pulling a job's image."""

    got_bytes: int
    size_bytes: int | None
    """The estimated size of all layers: a layer of unknown size counts as the average. None while no size is known."""
    layers: int
    layers_ready: int
    """The number of layers that are unpacked."""


class JobView(View, frozen=True, kw_only=True):
    """The latest attempt of one job of a run."""

    id: str
    replica: int
    node: int
    attempt: int
    revision: int | None = None
    """The revision of the run that it was made from. A run that was changed keeps its earlier jobs."""
    status: JobStatus
    reason: JobReason | None
    detail: str
    exit_code: int | None
    signal: int | None
    submitted_at: Time
    started_at: Time | None
    finished_at: Time | None
    instance: InstanceView | None
    earlier: list[AttemptView] = []
    """The earlier attempts, oldest first. Empty in the answer to a submit or stop."""
    ports: dict[int, int | None]
    """Container port to local port; None stands for any free one (`*:80`)."""
    pull: PullView | None = None
    """The progress of pulling the image; None at other times."""
    runtime: Runtime | None = None
    """The way in which it runs; None until it has a machine."""
    ready: bool | None = None
    """Whether a replica of a service takes requests; None for other jobs."""
    draining: bool = False
    """Whether a replica takes no new requests, and finishes those that it has."""


class RunView(View, frozen=True, kw_only=True):
    """A run and the latest attempt of each of its jobs."""

    id: str
    name: str
    project: str
    user: str
    status: RunStatus
    reason: JobReason | None
    detail: str
    """A text for people: why the run ended, or what it waits for."""
    next_start_at: Time | None = None
    """The time of the next start of a pending run, by its schedule or by a retry; None at other times."""
    type: str
    spec: dict[str, Any]
    revision: int | None = None
    """The number of the spec's revision, from 1: each change makes the next one.

    None, here and in jobs, from a server of an earlier version.
    """
    priority: int
    submitted_at: Time
    started_at: Time | None
    finished_at: Time | None
    service_url: str | None = None
    """The same as `service.url`; None once the run has ended."""
    service_model: str | None = None
    """The same as `service.model.name`."""
    service: ServiceView | None = None
    """The public side of a service; None for other runs."""
    replicas_ready: int | None = None
    """The number of a service's replicas that take requests; None for other runs."""
    replicas_asked: int | None = None
    """The number of replicas that a service asks for; None for other runs."""
    queue_place: int | None = None
    """The run's position in the queue, from 1; None outside the queue, and in the answer to a submit or stop."""
    queue_length: int | None = None
    """The number of runs in the queue; None as for `queue_place`."""
    jobs: list[JobView]
    cursor: int
    """The number of the last event that this view includes. Follow events after it to miss none."""


class RunPage(View, frozen=True, kw_only=True):
    """A page of runs, newest first."""

    runs: list[RunView]
    next: str | None
    """The value of `before` for the next page; None on the last page."""


class EventView(View, frozen=True, kw_only=True):
    """An event in the history of a project. Without a project, it is for admins of the server."""

    seq: int
    """The number of the event; later events have higher numbers."""
    at: Time
    project: str | None
    run_id: str | None
    run_name: str | None
    job_id: str | None
    instance_id: str | None
    actor: str
    """`user <name>`, `server`, `engine` or `agent`."""
    kind: str
    """The object and the event, such as `run.submitted`, `job.running`, `instance.terminated`, `secret.set`."""
    status: str | None
    """The object's new status; None if the status did not change."""
    message: str


class EventPage(View, frozen=True, kw_only=True):
    """A page of events, oldest first."""

    events: list[EventView]
    cursor: int
    """The value of `after` for the next page."""


class AccessView(View, frozen=True, kw_only=True):
    """The SSH access to one job, by the SSH server of its agent."""

    job_id: str
    hostname: str
    """The job's host; `127.0.0.1` stands for the server's machine."""
    ssh_port: int
    """The agent's SSH port, on the loopback address of the job's host."""
    ssh_user: str
    shares_network: bool = True
    """Whether the job's ports are those of its host. A container may have its own."""
    ports: dict[int, int] = {}
    """Configured port to the port that the job really has, where they differ: see `$PORT`."""
    working_dir: str = "/"
    """The absolute path inside the job of the folder in which its commands start; `/` if it is unknown."""
    host_key: str
    """The public key of the agent's SSH server, in OpenSSH's format."""


class MissingBlobs(View, frozen=True, kw_only=True):
    """The blobs that the server lacks, and the missing chunks of the pages that it has."""

    missing: list[str]
