"""Going along with a run: what is said, what Ctrl-C does, and the exit code."""

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dstack.api import Run
from dstack.cli import following
from dstack.errors import SSHError
from dstack.protocol.statuses import RunStatus
from dstack.protocol.views import PullView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class StandIn:
    """A run of which a test says how it goes."""

    def __init__(self, status: str, exit_code: int | None = None, detail: str = "", reason: str | None = None) -> None:
        self.name = "hello"
        self.status = RunStatus(status)
        self.exit_code = exit_code
        self.detail = detail
        self.reason = reason
        self.ports: dict[int, int] | None = {80: 8000}
        self.editor_url: str | None = None
        self.ssh_host: str | None = "hello"
        self.done: list[str] = []
        self.pulls: list[PullView] = []
        self.attach_error: Exception | None = None
        self.interrupts_log = False

    @property
    def view(self) -> SimpleNamespace:
        """With the image of its only job as far as it is just now."""
        return SimpleNamespace(jobs=[SimpleNamespace(pull=self.pulls[0])])

    def changes(self) -> Iterator["StandIn"]:
        end, self.status = self.status, RunStatus.PROVISIONING
        while self.pulls:
            yield self
            del self.pulls[0]
        self.status = end
        yield self

    def attach(self, **options: Any) -> bool:
        self.done.append("attach")
        if self.attach_error is not None:
            raise self.attach_error
        return True

    def logs(self, **which: int) -> Iterator[bytes]:
        yield b"a line\n\xff"
        if self.interrupts_log:
            raise KeyboardInterrupt

    def stop(self) -> None:
        self.done.append("stop")

    def detach(self) -> None:
        self.done.append("detach")


def follow(run: StandIn) -> int:
    return following.follow(cast(Run, run))


@pytest.mark.parametrize(
    ("run", "code", "says"),
    [
        (StandIn("done", 0), 0, "hello: done\n"),
        (StandIn("failed", 3, "exit code 3", "executor_error"), 3, "hello: failed (executor error: exit code 3)\n"),
        (StandIn("failed", 3, "exit code 3", "container_exited_with_error"), 3, "hello: failed (exit code 3)\n"),
        (StandIn("failed", None, "", "no_capacity"), 1, "hello: failed (no capacity)\n"),
        (
            StandIn("terminated", 143, "", "stopped_by_user"),
            143,
            "hello: terminated (stopped by user)\n",
        ),
        (StandIn("terminated", 0, "", "stopped_by_user"), 1, "hello: terminated (stopped by user)\n"),
    ],
)
def test_the_exit_code_is_the_jobs_and_the_end_is_told(
    capfdbinary: pytest.CaptureFixture[bytes], run: StandIn, code: int, says: str
) -> None:
    assert follow(run) == code
    output = capfdbinary.readouterr()
    assert output.out == b"a line\n\xff"
    assert output.err.decode() == f"Port 80 of `hello` is at localhost:8000\n{says}"
    assert run.done == ["attach", "detach"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_pull_is_a_bar_on_one_line_and_elsewhere_a_line_for_each_tenth(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    run = StandIn("running")
    run.pulls = [
        PullView(got_bytes=0, size_bytes=None, layers=3, layers_ready=1),
        PullView(got_bytes=1_000_000, size_bytes=10_000_000, layers=3, layers_ready=1),
        PullView(got_bytes=1_400_000, size_bytes=10_000_000, layers=3, layers_ready=1),
        PullView(got_bytes=5_000_000, size_bytes=10_000_000, layers=3, layers_ready=2),
    ]
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    following.wait_until_running(cast(Run, run))
    bar = "hello: pulling the image  [############------------]  50%  5.0 of 10.0 MB, 2 of 3 layers"
    if is_terminal:
        lines = stream.getvalue().split("\r")
        assert (len(lines), lines[-2]) == (6, f"{bar[:79]}\x1b[K"), "cut where the terminal ends"
        assert "\n" not in stream.getvalue()
    else:
        assert stream.getvalue() == (
            "hello: pulling the image, 1 of 3 layers\n"
            "hello: pulling the image, 1.0 of 10.0 MB, 1 of 3 layers\n"
            "hello: pulling the image, 5.0 of 10.0 MB, 2 of 3 layers\n"
        )


def test_a_tunnel_that_fails_is_a_warning_and_the_log_goes_on(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run = StandIn("done", 0)
    run.attach_error = SSHError("The tunnel is gone", hint="Try again")
    assert follow(run) == 0
    output = capfdbinary.readouterr()
    assert output.err.decode() == "warning: The tunnel is gone\nhint: Try again\nhello: done\n"
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
    run = StandIn("running")
    run.interrupts_log = True
    monkeypatch.setattr("sys.stdin", stdin)
    assert follow(run) == 130
    assert run.done == expected
    said = capfdbinary.readouterr().err.decode()
    assert ("`dstack attach --logs hello` comes back to it" in said) is ("stop" not in expected)
    assert ("Ctrl-C again leaves it running" in said) is stdin.isatty()


def test_a_second_ctrl_c_leaves_the_run_running(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Terminal):
        def readline(self, *arguments: Any) -> str:
            raise KeyboardInterrupt

    run = StandIn("running")
    run.interrupts_log = True
    monkeypatch.setattr("sys.stdin", Impatient())
    assert follow(run) == 130
    assert run.done == ["attach", "detach"]
