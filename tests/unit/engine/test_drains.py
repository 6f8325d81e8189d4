"""A draining replica ends once no data plane has requests of it, and it is known since when a replica is not ready."""

from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.drains import DRAIN_FOR, LOOK_AGAIN, ROUTES_WITHIN, SCALE_IN_FOR
from dstack.domain.intents import Done, StartJob
from dstack.domain.launches import FAILED_MAX, Launches
from dstack.domain.objects import Job, JobView
from dstack.engine.jobs.starting import start
from dstack.engine.jobs.watching import watch
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus
from tests.making import NOW, instance, job_view, placed_job, report, run

SERVICE = {"configuration": {"type": "service", "port": 80, "commands": ["x"]}}


def running(**fields: Any) -> Job:
    return placed_job(status=JobStatus.RUNNING, **{"report": report(ready=True), "started_at": NOW, **fields})


def drains(*drained_by: str, age: timedelta, planes: frozenset[str] = frozenset(), **fields: Any) -> JobView:
    asked = {"stop_asked": JobReason.SCALED_DOWN, "draining_since": NOW - age, "drained_by": drained_by}
    return job_view(running(**{**asked, **fields}), instance(), data_planes=planes)


def test_draining_replica_ends_once_every_data_plane_has_acknowledged() -> None:
    age, both = timedelta(minutes=5), frozenset({"one", "two"})
    waits = watch(drains("one", age=age, planes=both))
    assert (waits.write, waits.again) == ((), LOOK_AGAIN)
    (ending,) = watch(drains("one", "two", age=age, planes=both)).write
    assert (ending.status, ending.reason) == (JobStatus.TERMINATING, JobReason.SCALED_DOWN)
    assert watch(drains("two", "of a server that has ended", age=age, planes=frozenset({"two"}))).write


@pytest.mark.parametrize("planes", [frozenset[str](), frozenset({"one"})])
def test_draining_replica_stays_until_changed_routes_have_arrived(planes: frozenset[str]) -> None:
    early = watch(drains("one", age=timedelta(seconds=1.5), planes=planes))
    assert (early.write, early.again) == ((), timedelta(seconds=0.5))
    assert watch(drains("one", age=ROUTES_WITHIN, planes=planes)).write


@pytest.mark.parametrize(
    ("reason", "longest"), [(JobReason.REPLACED, DRAIN_FOR), (JobReason.SCALED_DOWN, SCALE_IN_FOR)]
)
def test_drain_has_an_end_though_a_data_plane_never_acknowledges(reason: JobReason, longest: timedelta) -> None:
    planes = frozenset({"one"})
    late = longest - timedelta(seconds=3)
    assert watch(drains(age=late, planes=planes, stop_asked=reason)).again == timedelta(seconds=3)
    (ending,) = watch(drains(age=longest, planes=planes, stop_asked=reason)).write
    assert ending.reason is reason


def test_draining_replica_that_ends_by_itself_has_its_own_reason() -> None:
    said = report(state="ended", end="exited", exit_code=3)
    (ending,) = watch(drains(age=timedelta(0), planes=frozenset({"one"}), report=said)).write
    assert ending.reason is JobReason.CONTAINER_EXITED_WITH_ERROR


def test_time_since_which_a_replica_is_not_ready_is_kept() -> None:
    (unready,) = watch(job_view(running(report=report(ready=False)), instance())).write
    assert isinstance(unready, Job) and unready.unready_since == NOW
    (ready,) = watch(job_view(running(unready_since=NOW), instance())).write
    assert isinstance(ready, Job) and ready.unready_since is None
    assert watch(job_view(running(), instance())).write == ()


@pytest.mark.parametrize(("ready", "since"), [(True, None), (None, None), (False, NOW)])
def test_replica_starts_ready_or_not(ready: bool | None, since: object) -> None:
    begun = placed_job(report=report(ready=ready))
    (written,) = start(job_view(begun, instance(), outcomes={StartJob: Done({})})).write
    assert isinstance(written, Job)
    assert (written.status, written.is_ready, written.unready_since) == (JobStatus.RUNNING, ready is not False, since)


def test_replica_that_its_agent_has_lost_is_not_ready() -> None:
    assert running().is_ready
    assert not running(lost_at=NOW).is_ready
    assert not running(report=report(ready=True, state="ended")).is_ready
    assert not placed_job(report=report(ready=True)).is_ready


def test_launches_in_vain_of_a_service_are_counted_for_each_replica() -> None:
    broken = instance(status=InstanceStatus.TERMINATING, agent_seen_at=None, detail="it did not boot")
    of = run(type="service", spec=SERVICE)
    (ending,) = start(job_view(placed_job(), broken, run=of)).write
    assert isinstance(ending, Job) and ending.launches == Launches(NOW, failed=1)
    sold_out = instance(status=InstanceStatus.TERMINATED, reason=InstanceReason.NO_OFFERS, agent_seen_at=None)
    (queued,) = start(job_view(placed_job(), sold_out, run=of)).write
    assert isinstance(queued, Job) and (queued.status, queued.launches) == (
        JobStatus.SUBMITTED,
        Launches(NOW, sold_out=1),
    )
    vain = Launches(NOW, failed=FAILED_MAX)
    (over,) = start(job_view(placed_job(launches=vain), sold_out, run=of)).write
    assert over.reason is JobReason.NO_CAPACITY
