"""The objects of the engine, and the values that steps return.

A *view* is all a step may look at, read in one transaction. `Next` is all a step may answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from dstack.domain.autoscaling import Scale
from dstack.domain.intents import Intent, Outcome
from dstack.domain.launches import Launches
from dstack.domain.machines import Address
from dstack.domain.offers import NO_SHARE, Demand, Offer, Share
from dstack.domain.rollouts import Rollout
from dstack.domain.traffic import History
from dstack.kit.text import utc_text
from dstack.protocol.agent import HostResources, JobReport
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """The fields of every object that has a lifecycle."""

    id: str
    project_id: str | None
    """None for an object that all projects share."""
    status: StrEnum
    status_since: datetime
    reason: StrEnum | None = None
    """The reason of its end, where it ends or has ended."""
    detail: str = ""
    finished_at: datetime | None = None
    version: int = 0
    """Grows with each write; 0 before the first."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The spec of a run from one change to the next."""

    run_id: str
    number: int
    """From 1."""
    spec: Mapping[str, Any]
    """The `SubmitRun` body as it was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Object):
    """One configuration brought to life."""

    project_id: str
    user_id: str
    name: str
    type: str
    status: RunStatus
    submitted_at: datetime
    spec: Mapping[str, Any]
    """That of its current revision."""
    revision: int = 1
    """The number of its current revision."""
    deployment: int = 1
    """The number of the revision that began the present deployment of a service: later ones changed it in place."""
    rollout: Rollout | None = None
    """The change to this deployment; None once all replicas of a service are made from it and ready."""
    scale: Scale | None = None
    """Of a service that scales with its traffic: the latest decision; None before the first, and for others."""
    priority: int = 0
    started_at: datetime | None = None
    reason: JobReason | None = None
    stop_asked: JobReason | None = None
    """The user's wish to end it: `stopped_by_user` or `aborted_by_user`."""
    retry_at: datetime | None = None
    """While pending: when the jobs are submitted again."""
    failing_since: datetime | None = None
    """When the row of failures began that its retries are to end."""
    launches: Launches | None = None
    """Its launches in vain within an hour; None before the first."""
    idempotency_key: str | None = None
    """Equal for repetitions of one submit."""

    @property
    def current(self) -> Revision:
        """Its current revision."""
        return Revision(self.id, self.revision, self.spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Object):
    """One attempt of one node of one replica of a run."""

    run_id: str
    project_id: str
    replica: int
    node: int
    nodes: int
    attempt: int
    revision: int = 1
    """The number of the run's revision that it was made from."""
    deployment: int = 1
    """That of the run when it was made."""
    status: JobStatus
    submitted_at: datetime
    demand: Demand
    stop_grace_s: float
    """Between asking it to end and ending it."""
    max_duration_s: float | None = None
    """The longest time that it may run; None without limit. Its agent ends it then, else the engine."""
    ports: Mapping[int, int | None] = field(default_factory=dict)
    """Its ports that `attach` forwards, each with the local port that leads to it; None for any free one."""
    instance_id: str | None = None
    share: Share = NO_SHARE
    started_at: datetime | None = None
    reason: JobReason | None = None
    stop_asked: JobReason | None = None
    """Why the run wants this job to end."""
    report: JobReport | None = None
    """The latest report of the agent about it."""
    lost_at: datetime | None = None
    """The time since which its agent does not know the job."""
    exit_code: int | None = None
    signal: int | None = None
    failing_since: datetime | None = None
    """Of a service's replica: when the row of failures before it began; None before the first failure."""
    failures: int = 0
    """Of a service's replica: how many attempts in that row have failed."""
    launches: Launches | None = None
    """Of a service's replica: its launches in vain within an hour; None before the first."""
    unready_since: datetime | None = None
    """Since when it runs and is not ready; None while it is, or does not run."""
    draining_since: datetime | None = None
    """Since when it takes no new requests: `stop_asked` has the reason, and has its effect once the drain has ended."""
    drained_by: tuple[str, ...] = ()
    """The servers whose data planes have no requests of it left."""

    @property
    def title(self) -> str:
        """The job in a sentence about its run. The first job of a run with one node has no number."""
        return f"job {self.replica}/{self.node}" if self.nodes > 1 or self.replica else "job"

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests, as its agent reports.

        Without that fact, every job that runs does: it was started without `JobOrder.service`, hence without probes. An
        agent that does not know this field is not asked to start a replica.
        """
        is_up = self.status is JobStatus.RUNNING and self.lost_at is None
        return is_up and (self.report is None or (self.report.state == "running" and self.report.ready is not False))

    @property
    def real_ports(self) -> dict[int, int]:
        """Return the configured ports whose real ports differ: replicas of a service may share a host."""
        real = None if self.report is None else self.report.port
        return {port: real for port in self.ports if real is not None and real != port}

    @property
    def has_begun(self) -> bool:
        """Whether its agent has started it, whatever came of that."""
        return self.status not in (JobStatus.SUBMITTED, JobStatus.PROVISIONING, JobStatus.PULLING)

    @property
    def holds_machine(self) -> bool:
        """Whether it uses its share of its instance: from placement until its processes have ended."""
        ended = self.report is not None and self.report.state == "ended"
        return self.instance_id is not None and not self.status.is_finished() and not ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(Object):
    """Our record of one machine, from the wish for it to its confirmed end."""

    offer: Offer
    """The machine as it was bought."""
    host: HostResources | None = None
    """The machine as its agent found it; None until the agent has answered."""
    status: InstanceStatus
    created_at: datetime
    idle_duration: timedelta | None
    """The longest time that it may be idle; None without limit."""
    machine_id: str | None = None
    address: Address | None = None
    """None while its backend has not given it one."""
    agent_seen_at: datetime | None = None
    """When its agent first answered."""
    unreachable_since: datetime | None = None
    """Since when the link is down; None while it is up, or was never up."""
    gone_at: datetime | None = None
    """The time when its backend no longer listed it: reclaimed or deleted."""
    failed_starts: int = 0
    """How many starts in a row have failed there for the machine's own reasons; see `domain.resting`."""
    rests_until: datetime | None = None
    """Until when no jobs are placed there; None where they are."""
    drain_asked_at: datetime | None = None
    """When its backend was asked to be removed: it takes no more jobs, and ends once it has none."""
    ssh_port: int | None = None
    ssh_host_key: str | None = None
    reason: InstanceReason | None = None
    detail: str = ""
    """Why it ends; before that, the backend's words while it boots, or the reason why its agent or its last job could
    not start there."""

    @property
    def offer_as_found(self) -> Offer:
        """The offer with the container engine, versions of Python and shared cards that its agent found.

        The numbers of processors and bytes stay those of the offer: a job that fits the offer fits its machines. Where
        jobs share a machine they hold single cards; those fail, and get other numbers once no job has any.
        """
        if self.host is None:
            return self.offer
        found, offered = self.host, self.offer.resources
        resources = replace(
            offered,
            engine=found.engine,
            engine_problem=found.engine_problem,
            pythons=found.pythons,
            gpus=found.gpus if self.offer.is_shared else offered.gpus,
        )
        return replace(self.offer, resources=resources)

    @property
    def is_ready(self) -> bool:
        """Whether jobs may be started on it."""
        return self.status in (InstanceStatus.IDLE, InstanceStatus.BUSY) and self.agent_seen_at is not None

    @property
    def hostname(self) -> str | None:
        """The host of its address."""
        return None if self.address is None else self.address.host

    @property
    def takes_jobs(self) -> bool:
        """Whether jobs may be placed on it."""
        return self.status not in (InstanceStatus.TERMINATING, InstanceStatus.TERMINATED)

    @property
    def why_resting(self) -> str:
        """The reason why it takes no jobs now; empty if it does."""
        if self.drain_asked_at is not None:
            return f"the machine {self.hostname or self.id} takes no more jobs: its backend is being removed"
        if self.rests_until is None:
            return ""
        again = f"tried again at {utc_text(self.rests_until)}"
        failed = f"{self.failed_starts} starts in a row failed there ({self.detail})"
        return f"the machine {self.hostname or self.id} takes no jobs: {failed}; {again}"


@dataclass(frozen=True, slots=True)
class Next:
    """The result of a step: the new objects, the intents, and the latest time of the next look."""

    write: tuple[Object, ...] = ()
    do: tuple[Intent, ...] = ()
    again: timedelta | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """A run, the latest attempts of its jobs, and the time."""

    run: Run
    jobs: tuple[Job, ...]
    now: datetime
    new_ids: tuple[str, ...] = ()
    """Identifiers for jobs that the step may want to make: enough for all."""
    revised_at: datetime | None = None
    """Of a service with ended replicas: the time of its current revision."""
    way_back: Revision | None = None
    """The revision that `Run.rollout` may return to."""
    traffic: Sequence[History] = ()
    """Of a service that scales: its traffic of the last minutes, one history for each data plane."""
    listens_since: datetime | None = None
    """When this server began. Data planes report soon after it what they have counted before."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job, its run, its instance and the other nodes that start with it."""

    job: Job
    run: Run
    revision: Revision
    """The one that the job was made from."""
    instance: Instance | None
    gang: tuple[Job, ...]
    """The jobs of the same replica and attempt, this one among them, by node."""
    gang_instances: Mapping[str, Instance]
    outcomes: Mapping[type[Intent], Outcome]
    now: datetime
    data_planes: frozenset[str] = frozenset()
    """Of a draining job: the live servers that have a data plane."""

    @property
    def age(self) -> timedelta:
        """Return how long the job has had its status."""
        return self.now - self.job.status_since


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance and the jobs that hold a part of it."""

    instance: Instance
    jobs: tuple[Job, ...]
    """Unfinished ones only."""
    outcomes: Mapping[type[Intent], Outcome]
    now: datetime

    @property
    def age(self) -> timedelta:
        """Return how long the instance has had its status."""
        return self.now - self.instance.status_since
