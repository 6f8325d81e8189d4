"""Objects for tests: every field has a plain default, and a test writes only what it is about."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from dstack.backends import local
from dstack.backends.base import Address, Backend, LaunchRequest, Machine
from dstack.domain.objects import Instance, InstanceView, Job, JobView, Run, RunView
from dstack.domain.offers import Bounds, Demand, Offer, Share
from dstack.kit.pauses import Pauses
from dstack.protocol.agent import HostResources, JobReport
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)

DEMAND = Demand(
    cpus=Bounds(2, None, written=False),
    memory_mib=Bounds(8192, None, written=False),
    disk_mib=Bounds(102400, None, written=False),
)

HERE = local.offer_of(HostResources(4, 16384, 50_000))
CLOUD = Offer("aws", "eu-west-1", "m5.large", HostResources(2, 8192, 102_400), price=0.1)


def at_once() -> Pauses:
    """Make the pauses of who waits for nothing."""
    return Pauses(timedelta(0), timedelta(0))


def run(**fields: Any) -> Run:
    """A submitted run of one job."""
    values: dict[str, Any] = {
        "id": "0-run",
        "project_id": "0-project",
        "user_id": "0-user",
        "name": "hello",
        "type": "task",
        "status": RunStatus.SUBMITTED,
        "status_since": NOW,
        "submitted_at": NOW,
        "spec": {"configuration": {"type": "task", "commands": ["true"]}},
        "version": 1,
    }
    return Run(**values | fields)


def job(**fields: Any) -> Job:
    """A queued job."""
    values: dict[str, Any] = {
        "id": "0-job",
        "run_id": "0-run",
        "project_id": "0-project",
        "replica": 0,
        "node": 0,
        "nodes": 1,
        "attempt": 1,
        "status": JobStatus.SUBMITTED,
        "status_since": NOW,
        "submitted_at": NOW,
        "demand": DEMAND,
        "stop_grace_s": 10.0,
        "version": 1,
    }
    return Job(**values | fields)


def placed_job(**fields: Any) -> Job:
    """A job that has its place on the instance `0-instance`."""
    place: dict[str, Any] = {
        "status": JobStatus.PROVISIONING,
        "instance_id": "0-instance",
        "share": Share(1, 4096),
    }
    return job(**place | fields)


def instance(**fields: Any) -> Instance:
    """This machine, ready and idle."""
    values: dict[str, Any] = {
        "id": "0-instance",
        "project_id": None,
        "offer": HERE,
        "status": InstanceStatus.IDLE,
        "status_since": NOW,
        "created_at": NOW,
        "idle_duration": timedelta(minutes=5),
        "machine_id": "m-1",
        "address": Address("127.0.0.1"),
        "agent_seen_at": NOW,
        "version": 1,
    }
    return Instance(**values | fields)


def report(**fields: Any) -> JobReport:
    """What the agent says of a running job."""
    values: dict[str, Any] = {"job_id": "0-job", "state": "running"}
    return JobReport(**values | fields)


def ended(**fields: Any) -> JobReport:
    """What the agent says of a job that ended well, with all of its log delivered."""
    values: dict[str, Any] = {"state": "ended", "end": "exited", "exit_code": 0, "log_bytes": 0, "logged": True}
    return report(**values | fields)


def run_view(of: Run, *jobs: Job, now: datetime = NOW) -> RunView:
    """A view of a run, with new ids at hand."""
    return RunView(of, jobs, now, tuple(f"0-new-{number}" for number in range(max(2, len(jobs)))))


def job_view(of: Job, on: Instance | None = None, *, now: datetime = NOW, **fields: Any) -> JobView:
    """A view of a job that runs alone."""
    its_run: Run = fields.get("run", run(status=RunStatus.RUNNING))
    values: dict[str, Any] = {
        "job": of,
        "run": its_run,
        "revision": its_run.current,
        "instance": on,
        "gang": (of,),
        "gang_instances": {} if on is None else {on.id: on},
        "outcomes": {},
        "now": now,
    }
    return JobView(**values | fields)


def instance_view(of: Instance, *jobs: Job, now: datetime = NOW, **fields: Any) -> InstanceView:
    """A view of an instance."""
    return InstanceView(of, jobs, fields.get("outcomes", {}), now)


class BareBackend(Backend):
    """A backend without offers and machines: a test overrides what it is about."""

    def __init__(self, data_dir: Path) -> None: ...

    def check(self) -> None: ...

    def offers(self) -> Sequence[Offer]:
        return []

    def launch(self, request: LaunchRequest) -> Machine:
        raise AssertionError("no test launches a machine here")

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return []

    def terminate(self, key: str, keep: str | None = None) -> bool:
        raise AssertionError("no test ends a machine here")


class HandClock:
    """A clock that a test turns by hand."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time

    async def sleep(self, span: timedelta) -> None:
        self.time += span


def few_examples() -> settings:
    """Make settings for examples that are dear and share their fixtures: a tenth of the profile's count."""
    profile = settings.default
    shared = [*profile.suppress_health_check, HealthCheck.function_scoped_fixture]
    return settings(profile, max_examples=profile.max_examples // 10, suppress_health_check=shared)
