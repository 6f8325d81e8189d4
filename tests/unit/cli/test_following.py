"""Going along with a run: what is said, what Ctrl-C does, and the exit code."""

import io
import threading
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import convert

from dstack.api import Run
from dstack.api._context import Context
from dstack.api._run_facts import RunFacts
from dstack.cli import clients, following, words
from dstack.cli.commands import logs
from dstack.errors import ConfigurationError, ResourceNotExistsError, SSHError
from dstack.protocol.statuses import RunStatus
from dstack.protocol.views import PullView, RunView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


AT = "2030-01-01T00:00:00Z"


def job(attempt: int = 1, status: str = "running", **changes: Any) -> dict[str, Any]:
    one = dict.fromkeys(("reason", "exit_code", "signal", "started_at", "finished_at", "instance", "instance_id"))
    one |= {"id": f"{attempt}j", "replica": 0, "node": 0, "attempt": attempt, "status": status, "detail": ""}
    return {**one, "submitted_at": AT, "ports": {80: None}, **changes}


def failed(attempt: int) -> dict[str, Any]:
    return job(attempt, "failed", reason="container_exited_with_error", detail="exit code 3", exit_code=3)


def view(status: str, *tries: dict[str, Any], **changes: Any) -> RunView:
    """A run with the tries of its only job, and how it is just now."""
    jobs = [{**tries[-1], "earlier": list(tries[:-1])}] if tries else []
    one: dict[str, Any] = dict.fromkeys(("reason", "started_at", "finished_at"))
    one |= {"id": "1r", "name": "hello", "project": "main", "user": "me", "status": status, "detail": "", "cursor": 1}
    rest = {"type": "task", "spec": {"configuration": {}}, "priority": 0, "submitted_at": AT, "jobs": jobs}
    return convert({**one, **rest, **changes}, RunView)


class StandIn(RunFacts):
    """A run of which a test gives all views, one after the other, and what each attempt prints."""

    def __init__(self, *views: RunView, logs: tuple[bytes, ...] = (b"a line\n\xff",)) -> None:
        transport = SimpleNamespace(answered_url="http://here")
        super().__init__(cast(Context, SimpleNamespace(transport=transport)), views[0])
        self.views = list(views[1:])
        self.printed = logs
        self.done: list[str] = []
        self.attach_error: Exception | None = None
        self.interrupts_log = False

    @property
    def ports(self) -> dict[int, int] | None:
        return {80: 8000}

    @property
    def ssh_host(self) -> str | None:
        return "hello" if "attach" in self.done else None

    @property
    def editor_url(self) -> str | None:
        return None

    def move(self) -> None:
        self._view = self.views.pop(0)

    def changes(self) -> Iterator["StandIn"]:
        yield self
        while self.views:
            self.move()
            yield self

    def attach(self, **options: Any) -> bool:
        self.done.append("attach")
        if self.attach_error is not None:
            raise self.attach_error
        return True

    def attempt_logs(
        self, attempt: int, since: datetime | None, diagnose: bool, replica: int, node: int
    ) -> Iterator[bytes]:
        yield self.printed[attempt - 1]
        if self.interrupts_log:
            raise KeyboardInterrupt
        while self.view.jobs[0].attempt == attempt and not self.view.jobs[0].status.is_finished() and self.views:
            self.move()

    def stop(self) -> None:
        self.done.append("stop")

    def detach(self) -> None:
        self.done.append("detach")


def running(status: str, code: int | None, detail: str = "", reason: str | None = None) -> StandIn:
    """A run that runs when it is first seen, and then ends."""
    end = view(status, job(status=status, exit_code=code), reason=reason, detail=detail)
    return StandIn(view("running", job()), end)


def follow(run: StandIn) -> int:
    return following.follow(cast(Run, run))


@pytest.mark.parametrize(
    ("run", "code", "says"),
    [
        (running("done", 0), 0, "hello: done\n"),
        (running("failed", 3, "exit code 3", "executor_error"), 3, "hello: failed (executor error: exit code 3)\n"),
        (running("failed", 3, "exit code 3", "container_exited_with_error"), 3, "hello: failed (exit code 3)\n"),
        (running("failed", None, "no Python", "creating_container_error"), 1, "hello: failed (no Python)\n"),
        (running("failed", None, "", "no_capacity"), 1, "hello: failed (no capacity)\n"),
        (running("terminated", 143, "", "stopped_by_user"), 143, "hello: terminated (stopped by user)\n"),
        (running("terminated", 0, "", "stopped_by_user"), 1, "hello: terminated (stopped by user)\n"),
    ],
)
def test_exit_code_is_the_jobs_and_the_end_is_reported(
    capfdbinary: pytest.CaptureFixture[bytes], run: StandIn, code: int, says: str
) -> None:
    assert follow(run) == code
    output = capfdbinary.readouterr()
    assert output.out == b"a line\n\xff"
    port = "Port 80 of `hello` is forwarded to localhost:8000\n"
    assert output.err.decode() == f"{port}hello is running; its output follows\n{says}"
    assert run.done == ["attach", "detach"]


NEXT = "2030-01-01T00:00:05Z"
TWO_FAILURES = (
    view("submitted", job(status="submitted")),
    view("pending", failed(1), next_start_at=NEXT),
    view("pending", failed(1), failed(2), next_start_at=NEXT),
    view("done", failed(1), failed(2), job(3, "done", exit_code=0)),
)


def test_each_attempt_that_fails_at_once_has_its_output_and_a_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run = StandIn(*TWO_FAILURES, logs=(b"one\n", b"two\n", b"three\n"))
    assert follow(run) == 0
    output = capfdbinary.readouterr()
    assert output.out == b"one\ntwo\nthree\n"
    at = words.clock(datetime.fromisoformat(NEXT), datetime.now(UTC))
    assert output.err.decode() == (
        "hello: submitted\n"
        f"hello: attempt 1 failed (exit code 3); attempt 2 starts at {at}\n"
        f"hello: attempt 2 failed (exit code 3); attempt 3 starts at {at}\n"
        "hello: done\n"
    )
    assert run.done == ["detach"], "no attempt ran for long enough to be attached to"


def test_log_of_a_finished_run_has_a_line_between_attempts(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run = StandIn(
        view("failed", failed(1), job(2, "failed", reason="no_capacity"), failed(3)), logs=(b"a\n", b"", b"c\n")
    )
    following.go_along(following.Which(cast(Run, run)))
    output = capfdbinary.readouterr()
    assert output.out == b"a\nc\n"
    assert output.err.decode() == "hello: attempt 1 failed (exit code 3)\nhello: attempt 2 failed (no capacity)\n"


def test_a_later_attempt_that_runs_is_attached_to(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    views = [
        view("pending", failed(1), next_start_at=NEXT),
        view("running", failed(1), job(2)),
        view("failed", failed(1), failed(2)),
    ]
    run = StandIn(*views, logs=(b"one\n", b"two\n"))
    assert follow(run) == 3
    assert run.done == ["attach", "detach"]
    assert "hello is running again (attempt 2); its output follows\n" in capfdbinary.readouterr().err.decode()


class Unforwarded(StandIn):
    """A run without ports, of which the log ends when the way into it is open."""

    def __init__(self, *, awaits_attach: bool) -> None:
        end = view("done", job(status="done", exit_code=0, ports={}))
        super().__init__(view("running", job(ports={})), end)
        self.awaits_attach = awaits_attach
        self.attached = threading.Event()

    @property
    def ports(self) -> dict[int, int] | None:
        return {}

    def attach(self, **options: Any) -> bool:
        self.attached.set()
        return super().attach(**options)

    def attempt_logs(self, *which: Any) -> Iterator[bytes]:
        if self.awaits_attach:
            assert self.attached.wait(60)
        yield from super().attempt_logs(*which)


def test_job_without_ports_that_ends_at_once_gets_no_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "WAY_IN_DELAY_S", 3600)
    run = Unforwarded(awaits_attach=False)
    assert follow(run) == 0
    assert run.done == ["detach"]


def test_job_without_ports_that_goes_on_gets_its_way_in_beside_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "WAY_IN_DELAY_S", 0)
    run = Unforwarded(awaits_attach=True)
    assert follow(run) == 0
    assert run.done == ["attach", "detach"]


class Retried(Unforwarded):
    """A run without ports that waits for its next attempt when the time of its way in has come."""

    def __init__(self, pending: threading.Event) -> None:
        super().__init__(awaits_attach=False)
        self.pending = pending
        self.views = [view("pending", job(status="failed", exit_code=1, ports={}), next_start_at=NEXT)]

    def changes(self) -> Iterator["StandIn"]:
        if self.status is RunStatus.PENDING:
            self.pending.set()
            for thread in threading.enumerate():
                if thread.name == "dstack-way-in":
                    thread.join(60)
            raise KeyboardInterrupt
        yield from super().changes()


def test_run_that_waits_for_its_next_attempt_gets_no_way_in_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = threading.Event()

    class Timer(threading.Timer):
        def run(self) -> None:
            assert pending.wait(60)
            self.function(*self.args, **self.kwargs)

    monkeypatch.setattr("threading.Timer", Timer)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    run = Retried(pending)
    assert follow(run) == 130
    assert "attach" not in run.done


@pytest.mark.parametrize(
    ("error", "warns"),
    [
        (ConfigurationError("The folder cannot be made"), "The folder cannot be made"),
        (ResourceNotExistsError("The run was deleted"), "The run was deleted"),
        (PermissionError(13, "Permission denied", "/home"), "`/home` cannot be used: Permission denied"),
    ],
)
@pytest.mark.parametrize("has_ports", [True, False])
def test_any_failure_of_the_way_in_is_a_warning(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, has_ports: bool, error: Exception, warns: str
) -> None:
    monkeypatch.setattr(following, "WAY_IN_DELAY_S", 0)
    run = running("done", 0) if has_ports else Unforwarded(awaits_attach=True)
    run.attach_error = error
    assert follow(run) == 0
    assert f"warning: {warns}\n" in capfd.readouterr().err


def test_log_in_a_pipe_has_no_line_about_the_job(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running("done", 0)
    monkeypatch.setattr(clients, "client_of", lambda _: None)
    monkeypatch.setattr(clients, "get_run", lambda *_: run)
    logs.run(Namespace(run_name="hello", replica=0, job=0, since=None, diagnose=False))
    assert capfdbinary.readouterr() == (b"a line\n\xff", b"")


@pytest.mark.parametrize(
    ("others", "which", "said"),
    [
        ([], (0, 0), ""),
        ([(0, 1)], (0, 0), "hello has 2 nodes; this is node 0. `dstack logs hello --job 1` shows node 1\n"),
        ([(0, 1)], (0, 1), "hello has 2 nodes; this is node 1. `dstack logs hello --job 0` shows node 0\n"),
        (
            [(1, 0)],
            (0, 0),
            "hello has 2 replicas; this is replica 0. `dstack logs hello --replica 1` shows replica 1\n",
        ),
    ],
)
def test_log_of_one_job_of_several_names_the_others_once(
    capfd: pytest.CaptureFixture[str], others: list[tuple[int, int]], which: tuple[int, int], said: str
) -> None:
    def now(status: str, attempt: int, job_status: str) -> RunView:
        jobs = [job(attempt, job_status, replica=replica, node=node) for replica, node in [(0, 0), *others]]
        return view(status, jobs=[{**one, "earlier": []} for one in jobs])

    run = StandIn(now("running", 1, "running"), now("running", 2, "running"), now("done", 2, "done"), logs=(b"", b""))
    following.go_along(following.Which(cast(Run, run), *which))
    assert capfd.readouterr().err.count("`dstack logs hello") == (1 if said else 0)
    run = StandIn(now("running", 1, "running"), now("done", 1, "done"))
    following.go_along(following.Which(cast(Run, run), *which))
    assert capfd.readouterr().err == f"hello is running; its output follows\n{said}"


def test_only_attempts_after_a_time_are_shown(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    tries = [failed(number) | {"finished_at": f"2030-01-01T00:0{number}:00Z"} for number in (1, 2)]
    run = StandIn(view("failed", *tries), logs=(b"one\n", b"two\n"))
    following.go_along(following.Which(cast(Run, run)), since=datetime(2030, 1, 1, 0, 1, 30, tzinfo=UTC))
    assert capfdbinary.readouterr().out == b"two\n"


def test_without_the_log_only_the_latest_attempt_is_followed(capfd: pytest.CaptureFixture[str]) -> None:
    tries = [failed(number) for number in (1, 2, 3)]
    run = StandIn(view("pending", *tries, next_start_at=NEXT), view("done", *tries, job(4, "done")))
    assert following.go_along(following.Which(cast(Run, run)), shows_log=False) == 4
    at = words.clock(datetime.fromisoformat(NEXT), datetime.now(UTC))
    assert capfd.readouterr() == ("", f"hello: attempt 3 failed (exit code 3); attempt 4 starts at {at}\n")


def test_a_missing_job_is_reported_instead_of_awaited() -> None:
    with pytest.raises(ResourceNotExistsError, match="The run `hello` has no job 7; it has only job 0"):
        following.go_along(following.Which(cast(Run, running("done", 0)), node=7))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_pull_is_a_bar_on_one_line_and_elsewhere_a_line_for_each_tenth(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    pulls = [(0, None, 1), (1_000_000, 10_000_000, 1), (1_400_000, 10_000_000, 1), (5_000_000, 10_000_000, 2)]
    views = [
        view(
            "provisioning",
            job(status="pulling", pull=PullView(got_bytes=got, size_bytes=size, layers=3, layers_ready=ready)),
        )
        for got, size, ready in pulls
    ]
    run = StandIn(*views, view("running", job()))
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    following.wait_until_begun(following.Which(cast(Run, run)))
    bar = "hello: pulling the image  [############------------]  50%  5.0 of 10.0 MB, 2 of 3 layers"
    if is_terminal:
        lines = stream.getvalue().split("\r")
        assert (len(lines), lines[-2]) == (6, f"{bar[:76]}…\x1b[K"), "cut where the terminal ends"
        assert "\n" not in stream.getvalue()
    else:
        assert stream.getvalue() == (
            "hello: pulling the image, 1 of 3 layers\n"
            "hello: pulling the image, 1.0 of 10.0 MB, 1 of 3 layers\n"
            "hello: pulling the image, 5.0 of 10.0 MB, 2 of 3 layers\n"
        )


def test_a_tunnel_that_fails_is_a_warning_and_the_log_goes_on(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run = running("done", 0)
    run.attach_error = SSHError("The tunnel is gone", hint="Try again")
    assert follow(run) == 0
    output = capfdbinary.readouterr()
    assert output.err.decode() == (
        "warning: The tunnel is gone\nhint: Try again\nhello is running; its output follows\nhello: done\n"
    )
    assert output.out == b"a line\n\xff"


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        (io.StringIO(), ["attach", "stop", "detach"]),
        (Terminal("y\n"), ["attach", "stop", "detach"]),
        (Terminal("n\n"), ["attach", "detach"]),
        (Terminal(""), ["attach", "detach"]),
    ],
)
def test_ctrl_c_asks_where_there_is_a_terminal_and_stops_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], stdin: io.StringIO, expected: list[str]
) -> None:
    run = StandIn(view("running", job()))
    run.interrupts_log = True
    monkeypatch.setattr("sys.stdin", stdin)
    assert follow(run) == 130
    assert run.done == expected
    said = capfdbinary.readouterr().err.decode()
    assert ("Attach again with `dstack attach --logs hello`" in said) is ("stop" not in expected)
    assert ("Ctrl-C again leaves it running" in said) is stdin.isatty()


def test_a_second_ctrl_c_leaves_the_run_running(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Terminal):
        def readline(self, *arguments: Any) -> str:
            raise KeyboardInterrupt

    run = StandIn(view("running", job()))
    run.interrupts_log = True
    monkeypatch.setattr("sys.stdin", Impatient())
    assert follow(run) == 130
    assert run.done == ["attach", "detach"]
