"""The number of replicas of a service follows its traffic."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.autoscaling import Decision, Scale
from dstack.domain.objects import Next, Run
from dstack.domain.routes import service_of
from dstack.domain.traffic import Sums
from dstack.engine.lifecycles import check_move
from dstack.engine.runs import scaling
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from dstack.store import commits, events, objects
from dstack.store.db import Database
from tests.making import NOW, job
from tests.unit.engine.test_services import FAILED, decided, draining, leaving, new, replica, rolling, service

RULES = {"scaling": {"metric": "rps", "target": 10}}
SCALE = Scale(2, NOW - timedelta(hours=1), "20 requests/s, target 10 each")


def scaling_service(replicas: str = "0..4", scale: Scale | None = SCALE, **fields: Any) -> Run:
    configuration = {"replicas": replicas, **RULES, **fields.pop("configuration", {})}
    return service(1, configuration=configuration, scale=scale, **fields)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[Decision]:
    """The decision that the rule takes next, whatever the traffic."""
    decisions = [Decision(2, "")]
    monkeypatch.setattr(scaling, "decide", lambda rules, scale, histories, now: decisions[-1])
    return decisions


def test_service_begins_with_its_minimum_and_a_changed_one_with_what_it_has(wanted: list[Decision]) -> None:
    _, _, _, (begun,) = decided(scaling_service("1..4", None), replica(0))
    assert begun.scale == Scale(1, NOW)
    _, born, changed, (begun,) = decided(scaling_service("1..4", None), *(replica(n) for n in range(3)))
    assert (begun.scale, born, changed) == (Scale(3, NOW), [], []), "a range in place of a number changes nothing"
    _, _, changed, (begun,) = decided(scaling_service("1..2", None), *(replica(n) for n in range(3)))
    assert (begun.scale, leaving(changed)) == (Scale(2, NOW), {2: JobReason.SCALED_DOWN})


def test_decision_is_kept_with_its_reason_and_brings_replicas(wanted: list[Decision]) -> None:
    wanted.append(Decision(4, "38.2 requests/s, target 10 each", again_s=300))
    then, born, changed, (scaled,) = decided(scaling_service(), replica(0), replica(1))
    assert scaled.scale == Scale(4, NOW, "38.2 requests/s, target 10 each")
    assert ([one.replica for one in born], changed) == ([2, 3], [])
    assert then.again is not None and then.again <= timedelta(seconds=300)


def test_replicas_on_their_way_count(wanted: list[Decision]) -> None:
    _, born, changed, runs = decided(scaling_service(), replica(0), job(id="1-job", replica=1))
    assert (born, changed, runs) == ([], [], [])


def test_silence_means_nothing_until_a_new_server_has_heard_its_data_plane(wanted: list[Decision]) -> None:
    wanted.append(Decision(0, "no requests for 10 min"))
    jobs, since = (replica(0), replica(1)), NOW - timedelta(seconds=10)
    then, _, changed, runs = decided(scaling_service(), *jobs, listens_since=since)
    assert (changed, runs, then.again) == ([], [], timedelta(seconds=20))
    _, _, changed, _ = decided(scaling_service(), *jobs, now=NOW + timedelta(seconds=20), listens_since=since)
    assert len(changed) == 2
    wanted.append(Decision(3, "30 requests/s, target 10 each"))
    _, born, _, _ = decided(scaling_service(), *jobs, listens_since=since)
    assert len(born) == 1, "more are welcome at any time"


def test_fewer_replicas_drain_and_the_newest_unready_go_first(wanted: list[Decision]) -> None:
    wanted.append(Decision(1, "4 requests/s, target 10 each"))
    _, _, changed, (scaled,) = decided(scaling_service(), replica(0), replica(1, ready=False))
    assert leaving(changed) == {1: JobReason.SCALED_DOWN}
    assert changed[0].draining_since == NOW
    assert scaled.scale is not None and scaled.scale.asked == 1


def test_service_without_replicas_runs_until_it_is_stopped(wanted: list[Decision]) -> None:
    wanted.append(Decision(0, "no requests for 10 min", again_s=None))
    ended = replica(0, status=JobStatus.TERMINATED, finished_at=NOW, stop_asked=JobReason.SCALED_DOWN)
    zero = replace(SCALE, asked=0)
    then, born, changed, runs = decided(scaling_service(scale=zero), ended)
    assert (then.again, born, changed, runs) == (None, [], [], [])
    _, _, _, (running,) = decided(scaling_service(scale=zero, status=RunStatus.SUBMITTED))
    assert running.status is RunStatus.RUNNING
    _, _, _, (stopped,) = decided(scaling_service(scale=zero, stop_asked=JobReason.STOPPED_BY_USER), ended)
    assert stopped.status is RunStatus.TERMINATING


def test_last_replica_leaves_while_it_finishes_its_requests_and_the_service_stays(wanted: list[Decision]) -> None:
    wanted.append(Decision(0, "no requests for 10 min"))
    _, _, (left,), (scaled,) = decided(scaling_service(scale=replace(SCALE, asked=1)), replica(0))
    assert (left.stop_asked, scaled.status, scaled.finished_at) == (JobReason.SCALED_DOWN, RunStatus.RUNNING, None)


def test_request_at_zero_calls_the_replica_back_that_still_drains(wanted: list[Decision]) -> None:
    wanted.append(Decision(1, "1 request waits for a replica"))
    _, born, (back,), _ = decided(scaling_service(scale=replace(SCALE, asked=0)), draining(0))
    assert (born, back.stop_asked, back.draining_since) == ([], None, None)


def test_maximum_is_exceeded_by_the_replica_of_an_update_alone(wanted: list[Decision]) -> None:
    wanted.append(Decision(4, "100 requests/s, target 10 each"))
    ending = [replica(n, stop_asked=JobReason.SCALED_DOWN, status=JobStatus.TERMINATING) for n in (2, 3)]
    _, born, _, _ = decided(scaling_service(), replica(0), replica(1), *ending)
    assert born == [], "four are alive"
    _, born, _, _ = decided(scaling_service(), replica(0), replica(1), ending[0])
    assert len(born) == 1
    rolls = replace(scaling_service(), rollout=rolling().rollout)
    _, born, _, _ = decided(rolls, replica(0), replica(1), *ending)
    assert len(born) == 1, "the one of the update"


def test_scaling_goes_on_while_an_update_is_under_way(wanted: list[Decision]) -> None:
    wanted.append(Decision(3, "30 requests/s, target 10 each"))
    update = {"revision": 2, "deployment": 2, "rollout": rolling().rollout}
    _, born, changed, (scaled,) = decided(scaling_service(**update), replica(0), new(1))
    assert scaled.scale is not None and scaled.scale.asked == 3
    assert [one.deployment for one in born] == [2, 2]
    assert changed == [], "the old one stays while its successors start"


def test_replica_that_failed_for_good_has_its_place_again_after_the_next_decision(wanted: list[Decision]) -> None:
    failed = replica(1, **{**FAILED, "finished_at": NOW - timedelta(minutes=5)})
    _, born, _, _ = decided(scaling_service(), replica(0), failed)
    assert born == [], "it has failed since the last decision"
    wanted.append(Decision(3, "30 requests/s, target 10 each"))
    _, born, _, _ = decided(scaling_service(), replica(0), failed)
    assert [one.replica for one in born] == [1, 2]


def test_failure_of_last_night_does_not_end_a_service_that_wakes(wanted: list[Decision]) -> None:
    wanted.append(Decision(1, "1 request waits for a replica"))
    failed = replica(1, **{**FAILED, "finished_at": NOW - timedelta(hours=8)})
    _, born, _, (scaled,) = decided(scaling_service(scale=replace(SCALE, asked=0)), failed)
    assert (len(born), scaled.status) == (1, RunStatus.SUBMITTED)


def test_number_in_place_of_a_range_ends_scaling(wanted: list[Decision]) -> None:
    _, born, _, (fixed,) = decided(scaling_service("3", SCALE), replica(0), replica(1))
    assert (fixed.scale, len(born)) == (None, 1)


def test_traffic_is_what_the_rule_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def decide(rules: object, scale: Scale, histories: object, now: object) -> Decision:
        seen.append((rules, histories, now))
        return Decision(scale.asked, scale.why)

    monkeypatch.setattr(scaling, "decide", decide)
    traffic = ((Sums(NOW.timestamp(), 7),),)
    configuration = {"scaling": {"metric": "concurrency", "target": 8, "scale_up_delay": "1m", "window": "30s"}}
    decided(scaling_service(configuration=configuration), replica(0), replica(1), traffic=traffic)
    (rules, histories, now) = seen[0]
    assert (rules.metric, rules.target, rules.minimum, rules.maximum) == ("concurrency", 8, 0, 4)
    assert (rules.up_delay_s, rules.down_delay_s, rules.window_s) == (60, 600, 30)
    assert (histories, now) == (traffic, NOW)


def starts(run: Run, *jobs: Any) -> tuple[bool, str]:
    route = service_of(run, "main", jobs)
    return route.starts, route.waits_for


def test_requests_wait_while_a_replica_is_on_its_way() -> None:
    assert starts(service(1), replica(0)) == (False, "")
    assert starts(service(1), job(replica=0)) == (True, "replica 0 waits for room")
    assert starts(service(1), replica(0, ready=False))[0]
    zero = scaling_service(scale=replace(SCALE, asked=0))
    assert starts(zero) == (True, "the next request starts a replica")
    assert starts(zero, draining(0))[0]


def test_requests_do_not_wait_where_no_replica_comes() -> None:
    assert starts(service(1), replica(0, **FAILED))[0] is False
    assert starts(service(0)) == (False, "it has no replicas (`replicas: 0`)")
    zero = scaling_service(scale=replace(SCALE, asked=0))
    assert starts(replace(zero, stop_asked=JobReason.STOPPED_BY_USER))[0] is False
    late = {**FAILED, "failing_since": NOW - timedelta(minutes=30), "failures": 9}
    assert starts(service(1, configuration={"retry": True}), replica(0, **late))[0] is False
    assert starts(service(1, configuration={"retry": True}), replica(0, **FAILED))[0], "the first pause is short"


async def test_decision_is_a_line_of_history_with_its_numbers(db: Database) -> None:
    run = scaling_service(version=1)
    await db.write(lambda tx: commits.add_run(tx, run, [], actor="user ada"))
    more = replace(run, scale=Scale(3, NOW, "27.4 requests/s, target 10 each"))
    await db.write(lambda tx: commits.commit(tx, Next((more,)), check_move))
    found = await db.read(lambda tx: events.list_after(tx, run.project_id, 0, run_id=run.id, limit=9))
    assert [one.message for one in found if one.kind == "run.scaled"] == [
        f"{run.name}: replicas 2 → 3: 27.4 requests/s, target 10 each"
    ]
    kept = await db.read(lambda tx: objects.find_run(tx, run.id))
    assert kept is not None and kept.scale == more.scale
