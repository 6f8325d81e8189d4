"""The public side of a service: its paths, its replicas and its traffic."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from dstack.domain.autoscaling import Scale
from dstack.domain.objects import Job, Next, Run
from dstack.domain.traffic import Sums
from dstack.engine.lifecycles import check_move
from dstack.errors import InvalidRequestError
from dstack.operations import measuring, runs
from dstack.operations.context import Context
from dstack.operations.presenting import brief_view
from dstack.protocol.services import ScalingView, ServiceModelView, ServiceView
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from dstack.store import commits, objects, traffic
from dstack.store.db import Database
from dstack.store.tx import Tx
from dstack.store.users import User
from tests.making import CLOUD, NOW, HandClock, instance, job, run

ADA = User(id="0-user", name="ada", is_admin=True)
LATENCIES = (0, 0, 0, 30) + (0,) * 10


def replica(number: int, **fields: Any) -> Job:
    return job(id=f"job-{number}", replica=number, version=0, **fields)


async def serve(db: Database, *jobs: Job, **configuration: Any) -> None:
    spec = {"configuration": {"type": "service", "port": 8000, "commands": ["x"], **configuration}}
    service = run(type="service", name="web", status=RunStatus.RUNNING, spec=spec)
    await db.write(lambda tx: commits.add_run(tx, service, list(jobs), actor="user ada"))


async def seen(context: Context) -> ServiceView:
    service = (await runs.get(context, ADA, "main", "web")).service
    assert service is not None
    return service


async def test_service_shows_its_paths_and_its_replicas(context: Context, db: Database) -> None:
    running = replica(0, status=JobStatus.RUNNING, started_at=NOW)
    await serve(db, running, replica(1), replicas=2, model="meta/llama")
    service = await seen(context)
    assert service.url == "/proxy/services/main/web/" and service.auth
    assert service.model == ServiceModelView(name="meta/llama", url="/proxy/models/main")
    assert (service.is_rolling, service.waits_for) == (False, "")
    view = await runs.get(context, ADA, "main", "web")
    assert (view.replicas_asked, view.replicas_ready) == (2, 1)
    assert (view.service_url, view.service_model) == (service.url, "meta/llama"), "earlier clients read these"


async def test_service_without_ready_replicas_shows_the_reason(context: Context, db: Database) -> None:
    await serve(db, replica(0), auth=False)
    service = await seen(context)
    assert (service.auth, service.model) == (False, None)
    assert service.waits_for == "replica 0 waits for room"


async def test_other_runs_have_no_public_side(context: Context, db: Database) -> None:
    await db.write(lambda tx: commits.add_run(tx, run(), [job(version=0)], actor="user ada"))
    view = await runs.get(context, ADA, "main", "hello")
    assert (view.service, view.service_url, view.service_model) == (None, None, None)
    with pytest.raises(InvalidRequestError, match="is a task: it has no traffic"):
        await measuring.read_traffic(context, ADA, "main", "hello", start=None)


async def test_traffic_is_that_of_all_data_planes(context: Context, db: Database, clock: HandClock) -> None:
    await serve(db, replica(0, status=JobStatus.RUNNING, started_at=NOW))
    at = NOW.timestamp()
    for source, sums in (("a", Sums(at + 5, 20, 2, 1, LATENCIES)), ("b", Sums(at + 6, 10, 1, 2, LATENCIES))):
        await db.write(lambda tx, source=source, sums=sums: traffic.add(tx, {("0-run", source): sums}))  # type: ignore[misc]
    clock.time += timedelta(seconds=15)
    found = (await seen(context)).traffic
    assert found is not None
    assert (found.requests, found.errors, found.requests_per_s, found.in_flight) == (30, 3, 0.5, 3)
    assert found.latency_p50_s == 0.0375
    brief = await db.read(lambda tx: brief_view(tx, run(type="service", name="web", spec=service_spec())))
    assert brief.service is not None and brief.service.traffic is None


def service_spec() -> dict[str, Any]:
    return {"configuration": {"type": "service", "port": 8000, "commands": ["x"]}}


async def test_history_has_each_request_once_and_the_replicas_of_its_time(
    context: Context, db: Database, clock: HandClock
) -> None:
    died = replica(
        1, status=JobStatus.FAILED, started_at=NOW, finished_at=NOW + timedelta(seconds=15), submitted_at=NOW
    )
    await serve(db, replica(0, status=JobStatus.RUNNING, started_at=NOW), died, replicas=2)
    at = NOW.timestamp()
    for second, requests in ((5, 20), (15, 50), (25, 50)):
        sums = Sums(at + second, requests, 0, 0, LATENCIES)
        await db.write(lambda tx, sums=sums: traffic.add(tx, {("0-run", "a"): sums}))  # type: ignore[misc]
    clock.time += timedelta(seconds=31)
    history = await measuring.read_traffic(context, ADA, "main", "web", start=None)
    assert [(point.at - NOW).total_seconds() for point in history.points] == [10, 20, 30]
    assert [point.requests_per_s for point in history.points] == [2.0, 3.0, 0.0]
    assert [point.replicas for point in history.points] == [2, 1, 1]
    later = await measuring.read_traffic(context, ADA, "main", "web", start=NOW + timedelta(seconds=10))
    assert [point.requests_per_s for point in later.points] == [3.0, 0.0]


def found(tx: Tx) -> Run:
    service = objects.find_run(tx, "0-run")
    assert service is not None
    return service


SCALING: dict[str, Any] = {"replicas": "0..4", "scaling": {"metric": "rps", "target": 10}}


async def test_service_shows_its_range_and_its_latest_decision(context: Context, db: Database) -> None:
    await serve(db, **SCALING)
    view = await runs.get(context, ADA, "main", "web")
    assert view.service is not None and (view.replicas_ready, view.replicas_asked) == (0, 0)
    assert view.service.waits_for == "the next request starts a replica"
    begun = ScalingView(minimum=0, maximum=4, metric="rps", target=10, since=None, why="")
    assert view.service.scaling == begun
    scale = Scale(3, NOW, "27.4 requests/s, target 10 each")
    await db.write(lambda tx: commits.record(tx, replace(found(tx), scale=scale)))
    view = await runs.get(context, ADA, "main", "web")
    assert view.service is not None and view.replicas_asked == 3
    assert view.service.scaling == structs.replace(begun, since=NOW, why=scale.why)


async def test_number_of_replicas_that_is_fixed_has_no_range(context: Context, db: Database) -> None:
    await serve(db, replica(0), replicas=1)
    assert (await seen(context)).scaling is None


async def test_cost_is_that_of_all_attempts_of_all_replicas(context: Context, db: Database, clock: HandClock) -> None:
    half = {"started_at": NOW - timedelta(minutes=30), "finished_at": NOW, "instance_id": "0-instance"}
    failed = replica(0, status=JobStatus.FAILED, **half)
    again = replica(0, attempt=2, status=JobStatus.RUNNING, started_at=NOW, instance_id="0-instance")
    left = replica(1, status=JobStatus.TERMINATED, reason=JobReason.SCALED_DOWN, **half)
    await db.write(lambda tx: commits.commit(tx, Next((instance(offer=CLOUD, version=0),)), check_move))
    await serve(db, failed, replace(again, id="job-0-again"), left, replica(2), **SCALING)
    clock.time += timedelta(hours=1)
    cost = (await seen(context)).cost
    assert cost is not None
    assert (cost.replica_hours, round(cost.dollars, 6), cost.dollars_per_hour) == (2.0, 0.2, 0.1)
    brief = await db.read(lambda tx: brief_view(tx, run(type="service", name="web", spec=service_spec())))
    assert brief.service is not None and brief.service.cost is None


async def test_history_has_the_requests_that_waited(context: Context, db: Database, clock: HandClock) -> None:
    await serve(db, replica(0, status=JobStatus.RUNNING, started_at=NOW), **SCALING)
    for second, held in ((1, 3), (4, 0), (15, 0)):
        sums = Sums(NOW.timestamp() + second, 3, 0, held, held=held)
        await db.write(lambda tx, sums=sums: traffic.add(tx, {("0-run", "a"): sums}))  # type: ignore[misc]
    clock.time += timedelta(seconds=20)
    history = await measuring.read_traffic(context, ADA, "main", "web", start=None)
    assert [point.held for point in history.points] == [3, 0]
