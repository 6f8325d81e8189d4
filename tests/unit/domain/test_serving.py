"""The route of a service, and what people read of what it waits for."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.autoscaling import Scale
from dstack.domain.objects import Job, Run
from dstack.domain.rollouts import NO_ROOM_AFTER, Rollout
from dstack.domain.routes import service_of
from dstack.domain.serving import counts, rollout_text, waits_for
from dstack.protocol.proxy import Channel, Limit, Replica, Tcp
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from tests.making import NOW, job, placed_job, report, run


def service(**fields: Any) -> Run:
    spec = {"configuration": {"type": "service", "port": "80:8000", "commands": ["x"], "auth": False, "replicas": 2}}
    return run(**{"type": "service", "name": "web", "status": RunStatus.RUNNING, "spec": spec, **fields})


def replica(number: int, said: Any = None, **fields: Any) -> Job:
    about = {"id": f"{number}-job", "replica": number, "status": JobStatus.RUNNING, "started_at": NOW}
    return placed_job(**{**about, "report": said or report(ready=True), **fields})


def test_ready_replicas_take_requests_at_their_own_ports() -> None:
    jobs = (
        replica(0, report(ready=True, port=8000)),
        replica(1, report(ready=True, port=41234, address="172.17.0.2")),
        replica(2, report(ready=False, port=8001)),
        replica(3, report()),
    )
    found = service_of(service(), "main", jobs)
    assert (found.id, found.project, found.name, found.auth) == ("0-run", "main", "web", False)
    assert found.replicas == (
        Replica("0-job", 0, Tcp("127.0.0.1", 8000)),
        Replica("1-job", 1, Tcp("172.17.0.2", 41234)),
        Replica("3-job", 3, Tcp("127.0.0.1", 8000)),
    )
    assert (found.draining, found.waits_for) == ((), "")


def test_real_ports_are_those_that_differ_from_the_configured_ones() -> None:
    ports = {8000: None}
    assert replica(0, report(ready=True, port=8000), ports=ports).real_ports == {}
    assert replica(1, report(ready=True, port=41234), ports=ports).real_ports == {8000: 41234}
    assert replica(2, report(), ports=ports).real_ports == {}


def test_draining_replica_takes_no_requests_and_keeps_those_that_it_has() -> None:
    drains = replica(1, stop_asked=JobReason.REPLACED, draining_since=NOW)
    ends = replica(2, status=JobStatus.TERMINATING, stop_asked=JobReason.REPLACED, draining_since=NOW)
    stopped = replica(3, stop_asked=JobReason.STOPPED_BY_USER)
    found = service_of(service(), "main", (replica(0), drains, ends, stopped))
    assert [one.number for one in found.replicas] == [0]
    assert [one.number for one in found.draining] == [1]


def test_limits_count_by_address_or_by_header() -> None:
    spec = service().spec["configuration"] | {
        "rate_limits": [
            {"prefix": "/api/", "rps": 4, "burst": 9, "key": {"type": "header", "header": "X-Customer"}},
            {"rps": 0.5},
        ]
    }
    found = service_of(service(spec={"configuration": spec}), "main", ())
    assert found.limits == (Limit("/api/", 4, 9, "X-Customer"), Limit("/", 0.5, 0))


def test_replica_of_another_machine_is_reached_through_its_agent() -> None:
    def through(of: Job, port: int) -> Channel:
        return Channel("/channels.sock", of.id, port)

    (only,) = service_of(service(), "main", (replica(0),), through).replicas
    assert only.target == Channel("/channels.sock", "0-job", 8000)


FAILED = {"status": JobStatus.FAILED, "reason": JobReason.CONTAINER_EXITED_WITH_ERROR, "finished_at": NOW}


@pytest.mark.parametrize(
    ("jobs", "why"),
    [
        ((job(),), "replica 0 waits for room"),
        ((placed_job(),), "replica 0 waits for its machine"),
        ((placed_job(status=JobStatus.PULLING),), "replica 0 pulls its image"),
        (
            (replica(0, report(ready=False, unready_reason="nothing listens at port 8000")),),
            "replica 0 is not ready: nothing listens at port 8000",
        ),
        ((replica(0, **FAILED, detail="exit code 3"),), "replica 0 failed (exit code 3)"),
        (
            (replica(0, stop_asked=JobReason.REPLACED, draining_since=NOW),),
            "replica 0 finishes its requests",
        ),
        ((), "the run is running"),
        ((replica(0),), ""),
    ],
)
def test_reason_why_no_replica_is_ready(jobs: tuple[Job, ...], why: str) -> None:
    assert waits_for(service(), jobs) == why
    assert service_of(service(), "main", jobs).waits_for == why


def test_time_of_the_next_attempt_is_part_of_the_reason() -> None:
    spec = {"configuration": {"type": "service", "port": 80, "commands": ["x"], "retry": True}}
    why = waits_for(service(spec=spec), (replica(0, **FAILED, detail="exit code 3"),))
    assert why == "replica 0 failed (exit code 3); its next attempt starts at 2030-01-01 12:00:05 UTC"


def test_progress_of_a_rollout_and_what_it_waits_for() -> None:
    of = service(revision=3, deployment=3, rollout=Rollout(NOW, 1, 1))
    new = {"deployment": 3, "revision": 3}
    begins = "revision 3 rolls out: 0 of 2 ready"
    assert rollout_text(of, (replica(0), replica(1), placed_job(replica=2, **new)), NOW) == (
        f"{begins}; replica 2 waits for its machine"
    )
    queued, late = job(replica=2, **new), NOW + NO_ROOM_AFTER
    way_out = "the last ready replica stays until then (`dstack apply --force` replaces it at once)"
    assert rollout_text(of, (replica(0), queued), late) == f"{begins}; replica 2 waits for room; {way_out}"
    assert rollout_text(of, (replica(0), replica(1), queued), late) == f"{begins}; replica 2 waits for room"
    assert rollout_text(of, (replica(0), queued), late - timedelta(seconds=1)) == f"{begins}; replica 2 waits for room"
    drains = replica(0, stop_asked=JobReason.REPLACED, draining_since=NOW)
    assert rollout_text(of, (drains, replica(1), replica(2, **new)), late) == (
        "revision 3 rolls out: 1 of 2 ready; replica 0 finishes its requests"
    )
    fewer = tuple(replica(number, **new) for number in range(3))
    assert rollout_text(of, fewer, late) == "revision 3 rolls out: 2 of 2 ready"
    assert rollout_text(service(), (replica(0),), NOW) == ""


@pytest.mark.parametrize(("range", "asked"), [("0..4", 2), ("3..4", 3), ("0..1", 1)])
def test_service_asks_for_the_replicas_that_it_has_before_its_first_decision(range: str, asked: int) -> None:
    scaling = {"metric": "rps", "target": 10}
    about = {"type": "service", "port": 8000, "commands": ["x"], "replicas": range, "scaling": scaling}
    scaled = service(spec={"configuration": about}, revision=2)
    assert counts(scaled, [replica(0), replica(1)]) == (2, asked)
    decided = replace(scaled, scale=Scale(4, NOW))
    assert counts(decided, [replica(0), replica(1)]) == (2, min(4, int(range[-1])))
