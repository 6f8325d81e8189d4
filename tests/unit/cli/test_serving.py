"""A service on the command line: its way to readiness, its addresses and its traffic."""

import io
import re
import time
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from msgspec import structs

from dstack.api import Run
from dstack.cli import clients, following, serving, words
from dstack.cli.charts import PLAIN
from dstack.cli.commands import metrics
from dstack.cli.commands.metrics import block_of_traffic
from dstack.cli.commands.ps import table_of
from dstack.protocol.metrics import MetricsView, TrafficHistoryView, TrafficPointView
from dstack.protocol.views import RunView

from .test_following import StandIn, Terminal, job, view

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
MODEL = {"name": "llama", "url": "/proxy/models/main"}
TRAFFIC = {"requests": 1200, "errors": 3, "requests_per_s": 20.0, "errors_per_s": 0.1, "in_flight": 4}
TRAFFIC |= {"latency_p50_s": 0.012, "latency_p95_s": 2.5}
ADDRESSES = "URL    http://here/proxy/services/main/hello/\n"


def service(status: str, ready: int, *jobs: dict[str, Any], **changes: Any) -> RunView:
    public = {"url": "/proxy/services/main/hello/", "auth": False, **changes.pop("service", {})}
    numbered = [{**one, "replica": number, "id": f"{number}j"} for number, one in enumerate(jobs)]
    fields = {"service": public, "replicas_ready": ready, "replicas_asked": 2, "jobs": numbered}
    return view(status, **{**fields, "type": "service", **changes})


WAITS = service("submitted", 0, job(status="submitted"), job(status="submitted"))
STARTS = service(
    "running", 0, job(ready=False), job(status="provisioning"), service={"waits_for": "replica 0 is not ready"}
)
ONE_READY = service("running", 1, job(ready=True), job(ready=False))
BOTH_READY = service("running", 2, job(ready=True), job(ready=True))


def follow(*views: RunView, logs: tuple[bytes, ...] = ()) -> tuple[int, StandIn]:
    run = Served(*views, logs=logs)
    return serving.follow(cast(Run, run)), run


class Served(StandIn):
    """A service of which a replica's output is read by its number."""

    def attempt_logs(self, attempt: int, *rest: Any, replica_num: int = 0, job_num: int = 0) -> Any:
        yield self.printed[replica_num]


def test_replicas_become_ready_and_the_address_is_the_last_word(capfd: pytest.CaptureFixture[str]) -> None:
    code, _ = follow(WAITS, STARTS, ONE_READY, BOTH_READY)
    output = capfd.readouterr()
    assert (code, output.out) == (0, ADDRESSES)
    assert output.err.splitlines()[:4] == [
        "hello: submitted",
        "hello: 0 of 2 replicas ready: replica 0 is not ready",
        "hello: 1 of 2 replicas ready",
        "hello: 2 of 2 replicas ready",
    ]


def test_replica_that_waits_for_a_machine_is_not_awaited(capfd: pytest.CaptureFixture[str]) -> None:
    code, _ = follow(service("running", 1, job(ready=True), job(status="submitted")))
    assert code == 0
    assert "hello: 1 of 2 replicas ready, 1 waits for a machine\n" in capfd.readouterr().err


def test_replica_that_a_change_adds_is_awaited(capfd: pytest.CaptureFixture[str]) -> None:
    left = job(status="terminated", reason="scaled_down")
    code, run = follow(service("running", 1, job(ready=True), left), ONE_READY, BOTH_READY)
    assert (code, run.views) == (0, [])


def test_replica_that_has_failed_for_good_is_not_awaited() -> None:
    code, _ = follow(service("running", 1, job(ready=True), job(status="failed")))
    assert code == 0


def test_rollout_is_awaited_and_its_progress_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    detail = "revision 2 rolls out: 1 of 2 ready"
    rolling = service("running", 2, job(ready=True), job(ready=True), service={"is_rolling": True}, detail=detail)
    code, run = follow(rolling, BOTH_READY)
    assert code == 0 and run.views == []
    assert capfd.readouterr().err.startswith(f"hello: {detail}\n")


def test_rollout_that_is_rolled_back_fails_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    rolling = service("running", 2, job(ready=True), job(ready=True), revision=3, service={"is_rolling": True})
    detail = "revision 3 was rolled back: replica 0 failed (exit code 3)"
    code, _ = follow(rolling, service("running", 2, job(ready=True), job(ready=True), revision=4, detail=detail))
    assert code == 1
    assert capfd.readouterr().err.endswith(f"hello: {detail}\n")


def test_model_and_the_need_of_a_token_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    follow(service("running", 2, job(), job(), service={"model": MODEL, "auth": True}))
    output = capfd.readouterr()
    assert output.out == f"{ADDRESSES}Model  llama at http://here/proxy/models/main\n"
    assert "`Authorization: Bearer TOKEN`" in output.err


def test_service_that_never_gets_ready_fails_with_the_reason_and_its_last_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    dead = job(1, "failed", reason="container_exited_with_error", detail="exit code 3", exit_code=3)
    end = service("failed", 0, job(), dead, reason="container_exited_with_error", detail="exit code 3")
    lines = b"".join(b"line %d\n" % number for number in range(100))
    code, _ = follow(STARTS, end, logs=(b"", lines))
    output = capfd.readouterr()
    assert code == 1
    assert output.out == "".join(f"line {number}\n" for number in range(80, 100))
    assert output.err.endswith("The last output of hello (replica 1):\nhello: failed (exit code 3)\n")


class Interrupted(Served):
    def changes(self) -> Any:
        yield self
        raise KeyboardInterrupt


@pytest.mark.parametrize(("answer", "done"), [("y\n", ["stop"]), ("n\n", [])])
def test_interrupt_asks_whether_to_stop(monkeypatch: pytest.MonkeyPatch, answer: str, done: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    run = Interrupted(STARTS)
    assert serving.follow(cast(Run, run)) == 130
    assert run.done == done


def rows(*views: RunView, verbose: bool) -> list[dict[str, str]]:
    header, *lines = table_of([Served(one).view for one in views], START, verbose=verbose).splitlines()
    begins = [found.start() for found in re.finditer(r"(?<!\S)(?:URL, WHY|IN FLIGHT|\S+)", header)]
    cells = [
        [line[begin:end].strip() for begin, end in zip(begins, [*begins[1:], None], strict=True)] for line in lines
    ]
    names = [header[begin:end].strip() for begin, end in zip(begins, [*begins[1:], None], strict=True)]
    return [dict(zip(names, row, strict=True)) for row in cells]


def test_table_of_runs_has_urls_where_there_are_services() -> None:
    web, train = rows(BOTH_READY, view("failed", reason="no_capacity"), verbose=False)
    assert web["URL, WHY"] == "http://here/proxy/services/main/hello/" and train["URL, WHY"] == "no capacity"
    assert "URL" not in table_of([view("running")], START)


def test_verbose_table_has_replicas_and_traffic() -> None:
    busy = service("running", 1, job(), job(), service={"traffic": TRAFFIC}, detail="replica 1 restarts")
    web, train = rows(busy, view("running"), verbose=True)
    assert [web[name] for name in ("REPLICAS", "REQ/S", "IN FLIGHT", "ERRORS", "P50", "P95")] == [
        *("1/2", "20.0", "4", "3", "12 ms", "2.5 s"),
    ]
    assert web["URL, WHY"] == "http://here/proxy/services/main/hello/ (replica 1 restarts)"
    assert train["REPLICAS"] == train["REQ/S"] == ""
    assert "REPLICAS" not in table_of([view("running")], START, verbose=True)


@pytest.mark.parametrize(("is_rolling", "shown"), [(False, 1), (True, 2)])
def test_replica_that_a_change_in_place_leaves_is_no_earlier_attempt(is_rolling: bool, shown: int) -> None:
    kept, failed = {**job(), "revision": 1}, {**job(status="failed"), "revision": 1}
    changed = service("running", 1, kept, failed, revision=2, service={"is_rolling": is_rolling})
    assert len(rows(changed, verbose=True)) == 1 + shown


def test_service_without_ready_replicas_has_the_reason_in_the_table() -> None:
    (web,) = rows(STARTS, verbose=False)
    assert web["URL, WHY"] == "http://here/proxy/services/main/hello/ (replica 0 is not ready)"


def test_url_has_a_line_of_its_own_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr(words, "columns_of", lambda file: 60)
    busy = service("running", 1, job(), job(), service={"traffic": TRAFFIC})
    lines = words.ESCAPES.sub("", table_of([Served(busy).view], START, verbose=True)).splitlines()
    assert "    http://here/proxy/services/main/hello/" in lines
    assert "running" in lines[2]
    assert max(map(len, lines)) <= 60


def test_colours_are_off_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert "\x1b" not in table_of([Served(BOTH_READY).view], START, verbose=True)


def test_traffic_is_a_chart_for_each_quantity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    points = [
        TrafficPointView(
            at=START + timedelta(seconds=10 * number),
            requests_per_s=10.0 * number,
            errors_per_s=0.0,
            in_flight=number,
            held=number % 2,
            latency_p50_s=0.01 * number if number else None,
            latency_p95_s=1.5 if number else None,
            replicas=1 + number // 2,
        )
        for number in range(3)
    ]
    title, *lines = block_of_traffic("web", "running", TrafficHistoryView(points=points), 80, PLAIN).splitlines()
    assert title == "web: running, 12:00:00 to 12:00:20"
    assert (
        "\n".join(lines)
        == """\
            NOW    OVER TIME  MIN    AVG    MAX
requests/s  20.0   _=#        0      10.0   20.0
errors/s    0      ___        0      0      0
in flight   2      _=#        0      1      2
waiting     0      _#_        0      0      1
p50         20 ms   =#        10 ms  15 ms  20 ms
p95         1.5 s   ##        1.5 s  1.5 s  1.5 s
replicas    2      ==#        1      1.33   2"""
    )


def test_service_without_points_has_no_chart() -> None:
    assert block_of_traffic("web", "submitted", TrafficHistoryView(points=[]), 80, PLAIN) == (
        "web: submitted, no requests yet"
    )


RANGE = {"minimum": 0, "maximum": 4, "metric": "rps", "target": 10, "since": None, "why": ""}


def scaled(status: str, ready: int, asked: int, *jobs: dict[str, Any], **public: Any) -> RunView:
    return service(status, ready, *jobs, replicas_asked=asked, service={"scaling": RANGE, "traffic": TRAFFIC, **public})


def test_service_that_needs_no_replica_is_settled_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    code, _ = follow(scaled("submitted", 0, 0))
    output = capfd.readouterr()
    assert (code, output.out) == (0, ADDRESSES)
    assert output.err.startswith("hello: no replica runs; the first request starts one\n")
    follow(scaled("running", 0, 0, job(status="terminated", reason="scaled_down")))
    assert capfd.readouterr().err.startswith("hello: no replica runs; the next request starts one\n")
    follow(service("running", 0, replicas_asked=0))
    assert capfd.readouterr().err.startswith("hello: no replica runs (`replicas: 0`)\n")


def test_rollout_of_a_service_without_replicas_is_awaited() -> None:
    code, run = follow(scaled("running", 0, 0, is_rolling=True), scaled("running", 0, 0))
    assert (code, run.views) == (0, [])


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (scaled("running", 2, 3, job(), job()), "2/3 of 0..4"),
        (scaled("running", 0, 0), "0 of 0..4"),
        (service("running", 1, job(), service={"traffic": TRAFFIC}), "1/2"),
    ],
)
def test_replicas_are_shown_with_their_range(view: RunView, shown: str) -> None:
    table = table_of([Served(view).view], START, verbose=True)
    assert f"  {shown}  " in table


def lines_below(view: RunView) -> list[str]:
    _, _, *below = table_of([Served(view).view], START, verbose=True).splitlines()
    return [" ".join(line.split()) for line in below]


def test_latest_decision_has_its_numbers_its_time_and_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    decided = {**RANGE, "since": "2030-01-01T11:01:30Z", "why": "27.4 requests/s, target 10 each"}
    line = "scaling 3 replicas since 11:01:30: 27.4 requests/s, target 10 each; range 0..4"
    assert lines_below(scaled("running", 2, 3, job(), scaling=decided)) == [line]
    begun = {**RANGE, "since": "2030-01-01T11:01:30Z", "metric": "concurrency"}
    line = "scaling 1 replica since 11:01:30; range 0..4, by requests in flight, target 10 each"
    assert lines_below(scaled("running", 0, 1, job(), scaling=begun)) == [line]
    assert lines_below(scaled("submitted", 0, 0)) == ["scaling 0 replicas; range 0..4, by requests/s, target 10 each"]
    assert lines_below(scaled("terminated", 0, 0, scaling=decided)) == []


@pytest.mark.parametrize(
    ("cost", "line"),
    [
        ((41.24, 1082.4, 6.0), "41.2 replica-hours, $1,082.40 since its submission; $6 an hour now"),
        ((0.5, 0.175, 0.35), "0.5 replica-hours, $0.175 since its submission; $0.35 an hour now"),
        ((0.0, 0.0, 0.0), "0 replica-hours, $0 since its submission; $0 an hour now"),
    ],
)
def test_cost_of_a_service_has_a_line(cost: tuple[float, float, float], line: str) -> None:
    values = dict(zip(("replica_hours", "dollars", "dollars_per_hour"), cost, strict=True))
    assert lines_below(service("running", 1, job(), service={"cost": values})) == [f"cost {line}"]


def test_replica_that_was_not_needed_any_more_has_no_line_and_no_price() -> None:
    instance: dict[str, Any] = {"id": "0i", "backend": "aws", "region": "eu", "instance_type": "m5", "status": "idle"}
    instance |= {"hostname": None, "price": 0.35, "resources": "2xCPU"}
    gone = job(1, "terminated", reason="scaled_down", instance=instance, revision=1)
    view = scaled("running", 0, 0, {**gone, "earlier": [gone]})
    table = table_of([Served(structs.replace(view, revision=2)).view], START, verbose=True)
    assert "attempt" not in table and "0.35" not in table


def test_requests_that_wait_are_shown_beside_those_in_flight() -> None:
    (web,) = rows(scaled("running", 0, 1, job(), traffic={**TRAFFIC, "held": 3}), verbose=True)[:1]
    assert web["IN FLIGHT"] == "4 (3 wait)"


def test_service_without_replicas_shows_those_who_wait_for_one_what_starts_it() -> None:
    empty = Served(scaled("running", 0, 0, waits_for="the next request starts a replica"))
    assert following.waiting_text(cast(Run, empty)) == "hello: no replica runs; the next request starts a replica"


@pytest.mark.parametrize(("reason", "shown"), [("scaled_down", False), ("container_exited_with_error", True)])
def test_usage_of_replicas_that_were_not_needed_any_more_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], reason: str, shown: bool
) -> None:
    usage = MetricsView(job_id="0j", replica=0, node=0, attempt=1, cpu_cores=1, memory_mib=1, gpus=[], points=[])
    run = Served(scaled("running", 0, 0, job(1, "terminated", reason=reason)))
    monkeypatch.setattr(clients, "client_of", lambda arguments: None)
    monkeypatch.setattr(clients, "get_run", lambda client, name: run)
    monkeypatch.setattr(run, "metrics", lambda **which: usage, raising=False)
    monkeypatch.setattr(run, "traffic", lambda: TrafficHistoryView(points=[]), raising=False)
    metrics.run(Namespace(run_name="hello", watch=False, json=False))
    assert ("hello 0/0: terminated, no metrics" in capfd.readouterr().out) is shown
