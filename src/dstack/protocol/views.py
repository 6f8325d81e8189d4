"""REST objects out: what the API shows. Unknown fields are ignored, so that a newer server may say more."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus, RunStatus


class View(BaseModel):
    """The base of every object the API shows."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class Problem(View):
    """An error as it crosses the wire (RFC 9457, `application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    """The `code` of a class in `dstack.errors`."""
    detail: str
    hint: str | None = None


class HealthView(View):
    """That the server is there."""

    status: str = "ok"
    version: str
    embedded: bool


class OfferView(View):
    """One thing that can be bought, and whether it can be had now."""

    backend: str
    region: str
    instance_type: str
    resources: str
    """For people: `2xCPU, 8GB, 100GB (disk), 1xA100 (40GB)`."""
    spot: bool
    price: float
    """US dollars an hour."""
    availability: str
    """`available`, `idle` (an instance of ours that fits), `busy` (fits once it is free) or `not_available`."""


class MachineView(View):
    """A machine at a backend, or one that should be there."""

    backend: str
    machine_id: str
    instance_id: str
    """The instance that claims it, or for which it was bought."""
    state: str
    """`claimed`; `orphan` (nobody claims it), `duplicate` (its instance has another) or `missing` (it is claimed, and
    the backend does not have it)."""
    detail: str
    price: float | None
    """US dollars an hour, where it is known."""


class AuditView(View):
    """What all backends have."""

    machines: list[MachineView]
    silent: list[str]
    """The backends that did not answer."""


class ChangeView(View):
    """One field of a configuration that is not as it is in the run of the same name."""

    field: str
    old: str | None
    """As it is written there; None where it is not."""
    new: str | None
    in_place: bool
    """Whether the run can go on with it; if not, it has to be stopped and submitted anew."""


class PlanView(View):
    """What a submit would do."""

    project: str
    user: str
    run_name: str | None
    spec: dict[str, Any]
    offers: list[OfferView]
    """The best of them, cheapest first."""
    offers_total: int
    max_price: float | None
    """The highest price among all fitting offers, in dollars an hour."""
    refusals: list[str]
    """Why other machines do not fit, one sentence each, with what was asked and what there is."""
    current: "RunView | None" = None
    """The active run of this name, where there is one."""
    changes: list[ChangeView] = []
    """What is not as it is in that run."""
    waits: str | None = None
    """Why it would wait in the queue, were it submitted now; None where there is room for it."""


class SecretView(View):
    """A secret of a project."""

    name: str
    updated_at: datetime
    value: str | None = None
    """Only where it was asked for."""


class SecretList(View):
    """All secrets of a project, without their values."""

    secrets: list[SecretView]


class RepoView(View):
    """A repo that the caller has initialized."""

    id: str
    kind: str
    url: str | None


class RepoList(View):
    """All repos that the caller has initialized in a project."""

    repos: list[RepoView]


class BackendView(View):
    """Where machines may come from."""

    name: str
    silent: bool
    """Whether it does not answer just now."""


class BackendList(View):
    """The backends of a project."""

    backends: list[BackendView]


class ProjectView(View):
    """A project, and what the caller is in it."""

    name: str
    role: str


class ProjectList(View):
    """The projects that the caller may use."""

    projects: list[ProjectView]


class InstanceView(View):
    """One machine of ours."""

    id: str
    backend: str
    region: str
    instance_type: str
    status: InstanceStatus
    hostname: str | None
    price: float
    resources: str
    detail: str = ""
    """Why it takes no jobs just now; nothing where it does."""


class InstanceList(View):
    """The machines that a project uses or may use."""

    instances: list[InstanceView]


class AttemptView(View):
    """One try of a job that is over."""

    id: str
    attempt: int
    status: JobStatus
    reason: JobReason | None
    detail: str
    exit_code: int | None
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    instance_id: str | None
    price: float | None = None
    """Of its instance, in US dollars an hour."""


class PullView(View):
    """How far the image of a job is."""

    got_bytes: int
    size_bytes: int | None
    """What there will be: layers of unknown size count as much as the others on average. None while none is known."""
    layers: int
    layers_ready: int
    """Those that are unpacked."""


class JobView(View):
    """One attempt of one job of a run."""

    id: str
    replica: int
    node: int
    attempt: int
    status: JobStatus
    reason: JobReason | None
    detail: str
    exit_code: int | None
    signal: int | None
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    instance: InstanceView | None
    earlier: list[AttemptView] = []
    """The attempts before this one, the first one first. Not in the answer to a submit or stop."""
    ports: dict[int, int | None]
    """Container port to wanted local port; None stands for any free one (`*:80`)."""
    pull: PullView | None = None
    """While its image is being pulled."""


class RunView(View):
    """A run and the latest attempt of each of its jobs."""

    id: str
    name: str
    project: str
    user: str
    status: RunStatus
    reason: JobReason | None
    detail: str
    """For people: why it ended, or what it waits for."""
    next_start_at: datetime | None = None
    """While it is pending: when its jobs start, for the first time or once more."""
    type: str
    spec: dict[str, Any]
    priority: int
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    service_url: str | None = None
    """Where a service is published; None while it is not."""
    service_model: str | None = None
    """What the model behind a service is named by; None where there is none."""
    queue_place: int | None = None
    """While it waits in the queue: 1 is the next. Not in the answer to a submit or stop."""
    queue_length: int | None = None
    jobs: list[JobView]
    cursor: int
    """The number of the last event this view includes: follow events from here and nothing is missed."""


class RunPage(View):
    """Some runs, newest first."""

    runs: list[RunView]
    next: str | None
    """Pass it as `before` to get the next page; None at the end."""


class EventView(View):
    """One line of history."""

    seq: int
    at: datetime
    project: str | None
    run_id: str | None
    run_name: str | None
    job_id: str | None
    instance_id: str | None
    actor: str
    """`user <name>`, `engine` or `agent`."""
    kind: str
    """`<object>.<what>`, such as `run.submitted`, `job.running`, `instance.terminated`."""
    status: str | None
    """The status the object has from now on, where it changed."""
    message: str


class EventPage(View):
    """Some events in the order they happened."""

    events: list[EventView]
    cursor: int
    """Pass it as `after` to get the next ones."""


class AccessView(View):
    """The way into one job: how to reach the SSH server beside its agent."""

    job_id: str
    hostname: str
    """The host where the job runs; `127.0.0.1` where it is the server's own machine."""
    ssh_port: int
    """The agent's SSH port, on the loopback of the job's host."""
    ssh_user: str
    shares_network: bool = True
    """Whether the ports of the job are those of its host; a container may have its own."""
    working_dir: str = "/"
    """Where the job's commands start: absolute, as those see it who are inside. `/` where that is not known."""
    host_key: str
    """The OpenSSH public key by which the agent's SSH server is known."""


class GpuMetricsView(View):
    """How one of a job's cards was used at one time; None for what it does not tell."""

    utilization_percent: float | None
    memory_mib: float | None


class MetricsPointView(View):
    """What a job used at one time; None for what cannot be told."""

    at: datetime
    """By the clock of the job's machine."""
    cpu_cores: float | None
    """How many cores were busy for it, on average since the point before."""
    memory_mib: float | None
    """What it has in memory, without files that could be read again."""
    gpus: list[GpuMetricsView]
    """Of each of its cards."""


class CardView(View):
    """One of a job's graphics cards."""

    name: str
    memory_mib: int


class MetricsView(View):
    """What one job used: a point each ten seconds, and the first ones sooner."""

    job_id: str
    replica: int
    node: int
    attempt: int
    cpu_cores: float | None
    """How many cores it can use at most; None before it has a machine."""
    memory_mib: float | None
    """How much memory it can use at most."""
    gpus: list[CardView]
    """Its cards, in the order in which each point tells of them."""
    points: list[MetricsPointView]


class MissingBlobs(View):
    """The blobs that the server does not have yet, and the chunks it lacks of the pages that it has."""

    missing: list[str]
