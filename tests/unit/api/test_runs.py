"""Runs as a program sees them, against a server of a few lines that has one run."""

import asyncio
import json
import os
import queue
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dstack.api import (
    Client,
    ClientError,
    ConfigurationError,
    LocalRepo,
    PortUsedError,
    RemoteRepo,
    Resources,
    Run,
    RunStatus,
    Task,
    aio,
)
from dstack.api._context import Context
from dstack.api._servers import Address, FixedServer
from dstack.api.aio._threads import Threads
from dstack.errors import DstackError, InvalidRequestError, ResourceExistsError, ResourceNotExistsError
from dstack.kit.locks import locked
from dstack.protocol.requests import SetSecret
from dstack.protocol.views import RunView
from dstack.spec.repos import RepoSource

from .conftest import Answer, Asked, FakeServer

AT = "2030-01-01T00:00:00Z"
INSTANCE = {
    "id": "1i",
    "backend": "local",
    "region": "-",
    "instance_type": "laptop",
    "status": "busy",
    "hostname": "127.0.0.1",
    "price": 0.0,
    "resources": "4xCPU",
}


class OneRun:
    """A server with one run, whose statuses the test moves."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.cursor = 1
        self.submitted: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.jobs: list[dict[str, Any]] = [job()]
        self.run: dict[str, Any] = {
            "id": "1r",
            "name": "hello",
            "project": "main",
            "user": "me",
            "status": "submitted",
            "reason": None,
            "detail": "",
            "type": "task",
            "spec": {},
            "priority": 0,
            "submitted_at": AT,
            "started_at": None,
            "finished_at": None,
        }
        self.changes: queue.Queue[bytes] = queue.Queue()
        self.shows_run = False
        """Whether the events have the run too, as newer servers do it."""
        self.fetches = 0
        server.answer = self.answer

    def move(self, status: str, **changes: Any) -> None:
        self.jobs[0] |= {"status": status, **changes}
        self.move_run(status)

    def move_run(self, status: str) -> None:
        self.run["status"] = status
        self.cursor += 1
        event = {
            "seq": self.cursor,
            "at": AT,
            "kind": f"run.{status}",
            "actor": "engine",
            "status": status,
            "message": "",
        }
        rest = dict.fromkeys(("project", "run_id", "run_name", "job_id", "instance_id"))
        if self.shows_run:
            self.changes.put(b"event: run\ndata: " + self.view() + b"\n\n")
        self.changes.put(b"data: " + json.dumps({**event, **rest}).encode() + b"\n\n")

    def view(self) -> bytes:
        return json.dumps({**self.run, "jobs": self.jobs, "cursor": self.cursor}).encode()

    def answer(self, asked: Asked) -> Answer:
        what = (asked.method, asked.path.removeprefix("/api/projects/main"))
        if what == ("POST", "/runs"):
            self.submitted.append(json.loads(asked.body))
            self.keys.append(asked.headers.get("Idempotency-Key"))
            return Answer(201, self.view())
        if what == ("GET", "/events"):
            return Answer(chunks=iter(self.changes.get, b""))
        if what == ("GET", "/runs/1r/logs"):
            return Answer(headers={"Dstack-Log-Offset": "0"}, chunks=iter([b"line 1\n", b"line 2"]))
        if what == ("POST", "/runs/1r/stop"):
            self.move("terminating")
            return Answer(body=self.view())
        if what[1] in ("/runs/hello", "/runs/1r"):
            self.fetches += 1
            return Answer(body=self.view())
        problem = {"title": "", "status": 404, "code": "resource_not_exists", "detail": f"There is no {what}"}
        return Answer(404, json.dumps(problem).encode())


def job(number: int = 0, **changes: Any) -> dict[str, Any]:
    one = dict.fromkeys(("reason", "exit_code", "signal", "started_at", "finished_at", "instance"))
    one |= {"id": f"{number}j", "replica": 0, "node": number, "attempt": 1, "status": "submitted", "detail": ""}
    return {**one, "submitted_at": AT, "ports": {}, **changes}


@pytest.fixture
def one(server: FakeServer) -> Iterator[OneRun]:
    run = OneRun(server)
    yield run
    run.changes.put(b"")


@pytest.fixture
def client(server: FakeServer, one: OneRun) -> Iterator[Client]:
    client = Client(FixedServer(Address(server.url, "t")), "main")
    yield client
    client.close()


def test_a_submit_sends_what_was_written_and_a_key_that_makes_it_safe_to_repeat(client: Client, one: OneRun) -> None:
    run = client.runs.submit(Task(commands=["echo hi"]), run_name="hello")
    (sent,) = one.submitted
    assert sent["run_name"] == "hello"
    assert sent["configuration"] == {"type": "task", "commands": ["echo hi"]}
    assert sent["ssh_public_key"].startswith("ssh-ed25519 ") and one.keys[0]
    assert (run.name, run.status, run.backend, run.hostname, run.ports) == (
        "hello",
        RunStatus.SUBMITTED,
        None,
        None,
        None,
    )


def test_cost_adds_up_all_attempts_by_the_price_of_their_instances(client: Client, one: OneRun) -> None:
    run = client.runs.submit(Task(commands=["x"]), run_name="hello")
    assert (run.cost, run.reason) == (0, None)
    hour = {"started_at": "2030-01-01T00:00:00Z", "finished_at": "2030-01-01T01:00:00Z"}
    gone = {key: one.jobs[0][key] for key in ("id", "attempt", "reason", "detail", "exit_code", "submitted_at")}
    earlier = [
        {**gone, **hour, "status": "failed", "instance_id": "1i", "price": 2.0},
        {**gone, "started_at": None, "finished_at": None, "status": "failed", "instance_id": None, "price": None},
    ]
    finished = {**hour, "finished_at": "2030-01-01T00:30:00Z", "instance": {**INSTANCE, "price": 1.0}}
    one.run["reason"] = "stopped_by_user"
    one.move("terminated", earlier=earlier, **finished)
    run.refresh()
    assert (run.cost, run.reason) == (2.5, "stopped_by_user")


def test_local_repo_is_made_by_its_constructor_too(tmp_path: Path) -> None:
    repo = LocalRepo(repo_dir=tmp_path)
    assert repo == LocalRepo.from_dir(tmp_path) and repo.folder == tmp_path
    with pytest.raises(ConfigurationError, match="There is no folder"):
        LocalRepo(str(tmp_path / "missing"))


def test_plan_lists_the_offers_of_each_job(client: Client, server: FakeServer, one: OneRun) -> None:
    offer = {key: INSTANCE[key] for key in ("backend", "region", "instance_type", "resources")}
    offer |= {"spot": False, "price": 0.5, "availability": "available"}
    plan = {"project": "main", "user": "me", "run_name": None, "spec": {}, "offers": [offer], "offers_total": 3}
    body = json.dumps({**plan, "max_price": 4.0, "refusals": []}).encode()
    former = server.answer
    server.answer = lambda asked: Answer(body=body) if asked.path.endswith("/plan") else former(asked)
    found = client.runs.get_plan(Task(commands=["x"], nodes=2)).job_plans
    assert [(job.replica, job.node, job.total_offers, job.max_price) for job in found] == [(0, 0, 3, 4), (0, 1, 3, 4)]
    assert found[1].offers[0].price == 0.5 and found[0].offers[0].instance_type == "laptop"


def test_password_in_the_url_of_a_repo_is_not_recorded_with_the_run(
    client: Client, server: FakeServer, one: OneRun
) -> None:
    plan = {"project": "main", "user": "me", "run_name": None, "spec": {}, "offers": [], "offers_total": 0}
    body = json.dumps({**plan, "max_price": None, "refusals": []}).encode()
    bodies: list[bytes] = []

    def answer(asked: Asked) -> Answer:
        bodies.append(asked.body)
        return Answer(body=body)

    server.answer = answer
    source = RepoSource(url="https://me:s3cret@example.com/team/project", hash="0a1b2c3", path="src")
    found = client.runs.get_plan(Task(commands=["x"], repos=[source]))
    (sent,) = (json.loads(one) for one in bodies)
    assert sent["configuration"]["repos"] == [
        {"url": "https://example.com/team/project", "hash": "0a1b2c3", "path": "src"}
    ]
    assert isinstance(found.repo, RemoteRepo) and found.repo.token == "s3cret"


def test_a_server_of_this_user_here_is_told_the_path_of_the_submitter_and_no_other_is(
    client: Client, server: FakeServer, one: OneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = f"/theirs:{sys.prefix}/bin:/latin-\udce9:/usr/bin"
    monkeypatch.setenv("PATH", theirs)
    monkeypatch.setenv("DSTACK_SERVER_DIR", str(tmp_path))

    def path_sent(url: str) -> object:
        (tmp_path / "server.json").write_text(json.dumps({"url": url, "token": "t", "pid": os.getpid()}))
        client.runs.submit(Task(commands=["x"]))
        return one.submitted[-1].get("path")

    assert path_sent(server.url) is None, "nobody lives in that folder, and the address may be a tunnel's"
    (tmp_path / "server.lock").write_text(json.dumps({"pid": os.getpid()}))
    with locked(tmp_path / "server.lock"):
        assert path_sent("http://127.0.0.1:1") is None, "it may be behind a tunnel"
        assert path_sent(server.url) == "/theirs:/usr/bin"


def test_an_argument_wins_over_the_configuration(client: Client, one: OneRun) -> None:
    task = Task(name="own", commands=["x"], max_price=1.0, regions=["a"], resources=Resources(cpu=1))
    client.runs.submit(task, max_price=2.0, backends=["local"], resources=Resources(memory="1GB"), max_duration="2h")
    (sent,) = one.submitted
    configuration = sent["configuration"]
    assert (configuration["max_price"], configuration["backends"], configuration["regions"]) == (2.0, ["local"], ["a"])
    assert list(configuration["resources"]) == ["memory"]
    assert sent["run_name"] == "own"


def test_what_a_program_changes_in_place_is_sent(client: Client, one: OneRun) -> None:
    task = Task(commands=["x"])
    task.resources.memory = "1GB"  # type: ignore[assignment]
    task.env["A"] = "1"
    asked = Resources()
    assert asked.disk is not None
    asked.disk.size = "1GB"  # type: ignore[assignment]
    client.runs.submit(task)
    client.runs.submit(Task(commands=["x"]), resources=asked)
    assert [sent["configuration"] for sent in one.submitted] == [
        {"type": "task", "commands": ["x"], "resources": {"memory": "1GB"}, "env": {"A": "1"}},
        {"type": "task", "commands": ["x"], "resources": {"disk": {"size": "1GB"}}},
    ]


def test_a_retry_policy_wins_over_the_configurations_retry(client: Client, one: OneRun) -> None:
    client.runs.submit(Task(commands=["x"], retry=True), retry_policy=False)
    configuration = one.submitted[0]["configuration"]
    assert (configuration["retry_policy"], "retry" in configuration) == (None, False)


def test_a_variable_comes_from_the_submitters_environment(
    client: Client, one: OneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "abc")
    client.runs.submit(Task(commands=["x"], env=["TOKEN", "A=1"]))
    assert one.submitted[0]["configuration"]["env"] == {"TOKEN": "abc", "A": "1"}
    monkeypatch.delenv("TOKEN")
    with pytest.raises(ConfigurationError, match="TOKEN"):
        client.runs.submit(Task(commands=["x"], env=["TOKEN"]))
    monkeypatch.setitem(os.environb, b"TOKEN", b"\xff")
    with pytest.raises(ConfigurationError, match="TOKEN"):
        client.runs.submit(Task(commands=["x"], env=["TOKEN"]))
    assert len(one.submitted) == 1


@pytest.mark.parametrize(("path", "told"), [(Path("a") / "b.yml", "a/b.yml"), (os.fsdecode(b"\xff.yml"), "?.yml")])
def test_a_file_may_have_any_name(client: Client, one: OneRun, path: str | Path, told: str) -> None:
    client.runs.submit(Task(commands=["x"]), configuration_path=path)
    assert one.submitted[0]["configuration_path"] == told


OLD = Task(commands=["x"], retry_policy=True)  # type: ignore[arg-type]


def test_an_old_spelling_is_told_at_the_line_of_the_program(client: Client, one: OneRun) -> None:
    for call in ("submit", "get_plan", "get_run_plan", "apply_configuration"):
        with pytest.warns(DeprecationWarning, match="write `retry` instead") as told, suppress(DstackError):
            getattr(client.runs, call)(OLD)
        assert [one.filename for one in told] == [__file__]


def test_an_old_spelling_is_told_from_a_thread_too(client: Client, one: OneRun) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
        asyncio.run(aio.RunCollection(client.runs, Threads()).submit(OLD))
    assert ["write `retry` instead" in str(one.message) for one in told] == [True]


@pytest.mark.parametrize("name", ["A", "1a", "a", "a_b", "a" * 42])
def test_a_bad_name_is_refused_before_anything_is_created(client: Client, one: OneRun, name: str) -> None:
    with pytest.raises(ConfigurationError):
        client.runs.submit(Task(commands=["x"]), run_name=name)
    assert one.server.asked == []


def test_a_port_in_use_is_refused_before_anything_is_created(client: Client, one: OneRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUsedError, match=f"The local port {port} is in use"):
            client.runs.submit(Task(commands=["x"], ports=[f"{port}:80"]))
        assert one.server.asked == []
        client.runs.submit(Task(commands=["x"], ports=[f"{port}:80"]), reserve_ports=False)
    assert len(one.submitted) == 1


def test_a_refused_submit_lets_go_of_its_ports(client: Client, one: OneRun, server: FakeServer) -> None:
    problem = {"title": "", "status": 409, "code": "resource_exists", "detail": "The name is taken"}
    server.answer = lambda asked: Answer(409, json.dumps(problem).encode())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ResourceExistsError, match="The name is taken"):
        client.runs.submit(Task(commands=["x"], ports=[f"{port}:80"]))
    socket.create_server(("127.0.0.1", port)).close()


def test_the_files_of_a_folder_go_before_the_run(client: Client, one: OneRun, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.py").write_text("print(1)")

    def answer(asked: Asked) -> Answer:
        if asked.path.endswith("/blobs/missing"):
            question = json.loads(asked.body)
            return Answer(body=json.dumps({"missing": question["hashes"] + question.get("pages", [])}).encode())
        return Answer(204, b"") if asked.method == "PUT" else one.answer(asked)

    one.server.answer = answer
    client.runs.submit(Task(commands=["x"]), repo=LocalRepo.from_dir(tmp_path / "work"))
    assert [asked.method for asked in one.server.asked] == ["POST", "POST", "PUT", "PUT", "PUT", "POST"]
    repo = one.submitted[0]["repo"]
    assert "kind" not in repo and len(repo["root"]) == 64


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigurationError, match="There is no folder `/nowhere`"):
        LocalRepo.from_dir("/nowhere")


def test_a_run_is_found_by_its_name_or_is_none(client: Client) -> None:
    run = client.runs.get("hello")
    assert run is not None and run.id == "1r"
    assert client.runs.get("nope") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "\udcff"])
def test_there_is_no_run_of_a_name_that_none_can_have(client: Client, one: OneRun, name: str) -> None:
    assert client.runs.get(name) is None
    with pytest.raises(ConfigurationError, match="cannot be a run's name"):
        client.runs.delete(name)
    assert one.server.asked == []


def test_all_pages_of_the_list_are_fetched(client: Client, one: OneRun, server: FakeServer) -> None:
    def answer(asked: Asked) -> Answer:
        following = {None: "b", "b": "c", "c": None}[asked.query.get("before")]
        return Answer(body=json.dumps({"runs": [json.loads(one.view())], "next": following}).encode())

    server.answer = answer
    assert len(client.runs.list(all=True)) == 3
    assert [asked.query.get("before") for asked in server.asked] == [None, "b", "c"]
    assert {asked.query["all"] for asked in server.asked} == {"true"}


@pytest.mark.parametrize(
    ("status", "codes", "expected"),
    [
        ("running", [0], None),
        ("done", [0], 0),
        ("done", [0, 143], 0),
        ("failed", [3], 3),
        ("failed", [0, 7], 7),
        ("failed", [None], None),
        ("terminated", [143], 143),
        ("terminated", [None], None),
    ],
)
def test_the_exit_code_is_the_jobs(
    client: Client, one: OneRun, status: str, codes: list[int | None], expected: int | None
) -> None:
    one.run["status"] = status
    one.jobs = [job(number, exit_code=code, finished_at=AT) for number, code in enumerate(codes)]
    run = client.runs.get("hello")
    assert run is not None and run.exit_code == expected


def found(client: Client) -> Run:
    run = client.runs.get("hello")
    assert run is not None
    return run


def test_exit_code_is_that_of_the_failed_job_and_not_of_one_ended_with_it(client: Client, one: OneRun) -> None:
    one.run["status"] = "failed"
    ended = job(0, exit_code=143, reason="server", finished_at=AT)
    one.jobs = [ended, job(1, exit_code=4, reason="container_exited_with_error", finished_at=AT.replace("00Z", "09Z"))]
    assert found(client).exit_code == 4


@pytest.mark.parametrize(("shows_run", "fetches"), [(False, 3), (True, 1)])
def test_changes_follow_the_events_to_the_end(client: Client, one: OneRun, shows_run: bool, fetches: int) -> None:
    one.shows_run = shows_run
    one.move("provisioning")
    seen = []
    for run in found(client).changes():
        seen.append(run.status.value)
        if run.status is RunStatus.PROVISIONING:
            one.move("running", instance=INSTANCE)
        if run.status is RunStatus.RUNNING:
            assert (str(run.backend), run.hostname) == ("local", "127.0.0.1")
            one.move("done", exit_code=0)
    assert seen == ["provisioning", "running", "done"]
    assert one.fetches == fetches, "a run that the events show is not asked for"


class SeenByOthers(Run):
    """A run that another thread fetches again between two looks at it."""

    views: list[RunView]

    @property
    def _view(self) -> RunView:
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]

    @_view.setter
    def _view(self, view: RunView) -> None:
        self.views = [view]


def test_changes_begin_with_what_the_follower_has_seen_whatever_other_threads_fetch(
    client: Client, one: OneRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = msgspec.json.decode(one.view(), type=RunView)
    one.move("done")
    done = msgspec.json.decode(one.view(), type=RunView)
    followed: list[int] = []

    def news(context: Context, run_id: str, after: int) -> Iterator[RunView]:
        followed.append(after)
        return iter([done])

    monkeypatch.setattr(Context, "news", news)
    run = SeenByOthers(client.runs._context, running)
    run.views = [running, done]
    for _ in run.changes():
        pass
    assert followed == [running.cursor], "no event comes after the end"


@pytest.mark.parametrize(("status", "expected"), [("done", True), ("failed", False), ("terminated", False)])
def test_attaching_to_what_ends_before_it_runs(client: Client, one: OneRun, status: str, expected: bool) -> None:
    run = found(client)
    threading.Thread(target=one.move, args=(status,)).start()
    assert run.attach() is expected
    assert run.ports is None
    run.detach()
    run.detach()


@pytest.mark.parametrize(
    ("ended", "reason", "expected"),
    [
        ("failed", "container_exited_with_error", False),
        ("failed", "creating_container_error", False),
        ("done", "exited", True),
    ],
)
def test_attaching_returns_when_an_attempt_was_too_quick(
    client: Client, one: OneRun, ended: str, reason: str, expected: bool
) -> None:
    run = found(client)
    one.jobs[0] |= {"status": ended, "reason": reason}
    threading.Thread(target=one.move_run, args=("pending",)).start()
    assert run.attach() is expected
    assert run.ports is None and run.status is RunStatus.PENDING


def test_attaching_waits_for_the_next_attempt_where_no_machine_was_to_be_had(client: Client, one: OneRun) -> None:
    run = found(client)
    one.jobs[0] |= {"status": "failed", "reason": "no_capacity"}
    one.move_run("pending")
    one.jobs[0] = job(attempt=2, status="done", reason="exited", earlier=[one.jobs[0] | {"instance_id": None}])
    one.move_run("pending")
    assert run.attach() is True


def test_attaching_anew_waits_for_an_attempt_that_is_new(client: Client, one: OneRun) -> None:
    one.jobs[0] |= {"status": "failed", "reason": "container_exited_with_error", "attempt": 1}
    one.move_run("pending")
    run = found(client)
    one.jobs[0] = job(attempt=2, status="done", reason="exited", earlier=[one.jobs[0] | {"instance_id": None}])
    threading.Thread(target=one.move_run, args=("pending",)).start()
    assert run.attach() is True


def test_attaching_tells_what_the_server_refuses(client: Client, one: OneRun, server: FakeServer) -> None:
    problem = {"title": "", "status": 400, "code": "invalid_request", "detail": "No key is taken"}

    def answer(asked: Asked) -> Answer:
        return Answer(400, json.dumps(problem).encode()) if asked.path.endswith("/access") else one.answer(asked)

    server.answer = answer
    one.move("running", instance=INSTANCE)
    with pytest.raises(InvalidRequestError, match="No key is taken"):
        found(client).attach()


def test_a_bad_key_is_told_at_once(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        found(client).attach(ssh_identity_file=tmp_path / "none")


def test_a_port_that_is_none_is_told(client: Client, one: OneRun) -> None:
    one.move("running", instance=INSTANCE)
    with pytest.raises(ConfigurationError, match="expected a port such as"):
        found(client).attach(ports_overrides=["http"])


def test_logs_of_a_finished_run(client: Client, one: OneRun) -> None:
    one.move("done", exit_code=0)
    assert b"".join(found(client).logs()) == b"line 1\nline 2"


@pytest.mark.parametrize(
    ("which", "missing"),
    [
        ((0, 7), "job 7; it has only job 0"),
        ((-1, 0), "replica -1; it has only replica 0"),
        ((0, -1), "job -1; it has only job 0"),
    ],
)
def test_a_job_that_is_not_there_is_told_with_the_runs_name(
    client: Client, one: OneRun, which: tuple[int, int], missing: str
) -> None:
    said = f"The run `hello` has no {missing}"
    for ask in (
        lambda: list(found(client).logs(replica_num=which[0], job_num=which[1])),
        lambda: found(client).metrics(replica_num=which[0], job_num=which[1]),
        lambda: found(client).attach(replica_num=which[0], job_num=which[1]),
    ):
        with pytest.raises(ResourceNotExistsError) as caught:
            ask()
        assert caught.value.message == said


def test_a_job_that_came_later_has_a_log(client: Client, one: OneRun) -> None:
    run = found(client)
    one.jobs.append(job(1))
    one.run["status"] = "done"
    assert b"".join(run.logs(job_num=1)) == b"line 1\nline 2"


@pytest.mark.parametrize("ask", [lambda run, time: run.logs(time), lambda run, time: run.metrics(time)])
def test_a_time_out_of_the_calendar_is_refused(
    client: Client, one: OneRun, ask: Callable[[Run, datetime], object]
) -> None:
    far_west = timezone(timedelta(hours=-12))
    with pytest.raises(ConfigurationError, match="is not a time in every time zone"):
        ask(found(client), datetime.max.replace(tzinfo=far_west))
    with pytest.raises(ConfigurationError, match="is not a time in every time zone"):
        ask(found(client), datetime.min)  # noqa: DTZ901 - as programs may write it


@pytest.mark.parametrize("value", ["s3cret\udcff", b"s3cret\xff", "s3cret" * 10_000])
def test_a_secret_that_cannot_be_kept_is_not_shown(client: Client, one: OneRun, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="The value of the secret `X` is not UTF-8 text") as caught:
        client.secrets.set("X", value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in repr(SetSecret(value=value))
    assert one.server.asked == []


def test_a_token_that_is_none_is_not_shown(client: Client, one: OneRun) -> None:
    repo = RemoteRepo.from_url("https://example.com/a/b", "main")
    with pytest.raises(ConfigurationError, match="has characters that no token has") as caught:
        client.repos.init(repo, oauth_token="s3cret\udcff")
    assert "s3cret" not in str(caught.value)
    assert one.server.asked == []


def test_stopping_detaches_and_shows_the_new_status(client: Client, one: OneRun) -> None:
    run = found(client)
    run.stop(abort=True)
    assert run.status is RunStatus.TERMINATING
    assert json.loads(one.server.asked[-1].body) == {"abort": True}


def test_port_used_is_a_client_error() -> None:
    assert issubclass(PortUsedError, ClientError)
