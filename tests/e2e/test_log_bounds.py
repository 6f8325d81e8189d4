"""A container prints as fast and as much as it likes: nothing is lost up to the bound, and beyond it that is told."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from dstack.api import Run, RunStatus, Task
from tests.e2e.home import Home, wait_for
from tests.engines import SHELL_IMAGE
from tests.printing import numbered, printing

MB = 1_000_000
SERVER_BOUND_BYTES = 8 << 20
AGENT_BOUND_BYTES = 4 << 20
AGENT_STEP_BYTES = 8 << 20
NOTICE = re.compile(
    rb"\[dstack: ([0-9.]+ [MG]B) of output before this line are lost: more was printed than is kept\]\n"
)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and agents that keep little."""
    monkeypatch.setenv("DSTACK_LOG_BYTES_MAX", str(SERVER_BOUND_BYTES))
    monkeypatch.setenv("DSTACK_AGENT_LOG_BYTES_MAX", str(AGENT_BOUND_BYTES))


def host_log(home: Home) -> Path:
    """Where the only job prints."""
    (found,) = (path for machine in home.machines() for path in machine.jobs.glob("*/job.log"))
    return found


def stored_log(home: Home) -> Path:
    """Where the server keeps it."""
    (found,) = (home.data / "logs").glob("*/job.log")
    return found


def disk_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def losses(home: Home, run: Run) -> list[str]:
    """What the history of the run says of lost output."""
    return [one.message for one in home.client().events.list() if one.kind == "job.log_lost" and one.run_id == run.id]


def assert_right_but_for_notices(printed: bytes) -> None:
    """Every byte is at its place, and a notice stands where others would be."""
    first, *pieces = NOTICE.split(printed)
    assert pieces
    for piece in (first, *pieces[1::2]):
        line = re.search(rb"(\d{9})\n", piece)
        assert line is not None
        start = 10 * int(line[1]) - line.start()
        assert numbered(start, start + len(piece)).startswith(piece.removesuffix(b"\n")), "a notice begins a line"


@pytest.mark.server("shared", engine="engine")
def test_a_container_that_prints_200_mb_loses_nothing(home: Home) -> None:
    megabyte = b"".join(b"%08d\n" % number for number in range(1, 111112))
    commands = ["seq -w 1 00111111 >/tmp/mb", "for i in $(seq 1 200); do echo part $i; cat /tmp/mb; done"]
    run = home.client().runs.submit(Task(commands=commands, image=SHELL_IMAGE))
    arrived, expected, size = hashlib.sha256(), hashlib.sha256(), 0
    for chunk in run.logs():
        arrived.update(chunk)
        size += len(chunk)
    for number in range(1, 201):
        expected.update(b"part %d\n" % number + megabyte)
    assert size > 200 * MB - 200
    assert arrived.hexdigest() == expected.hexdigest()
    run.refresh()
    assert run.status is RunStatus.DONE


@pytest.mark.server(engine="engine")
def test_a_container_that_prints_for_ever_fills_no_disk_and_lives_on(little: None, home: Home) -> None:
    run = home.client().runs.submit(Task(commands=["seq -w 1 99999999"], image=SHELL_IMAGE))
    reading = run.logs()
    next(reading)
    for printed in (30 * MB, 60 * MB):
        wait_for("more output", lambda size=printed: stored_log(home).stat().st_size > size)  # type: ignore[misc]
        assert disk_bytes(stored_log(home)) <= SERVER_BOUND_BYTES + MB
        wait_for(
            "the host to give back room",
            lambda: disk_bytes(host_log(home)) <= AGENT_BOUND_BYTES + 2 * AGENT_STEP_BYTES,
        )
    run.refresh()
    assert run.status is RunStatus.RUNNING
    assert any("no more than 8.4 MB of a log are kept" in message for message in losses(home, run))
    assert len(losses(home, run)) <= 10
    run.stop()
    for _ in run.changes():
        pass  # output before the end still drops the beginning of the log
    whole = b"".join(home.client().runs.get(run.name).logs())  # type: ignore[union-attr]
    assert (run.status, run.reason) == (RunStatus.TERMINATED, "stopped_by_user")
    notice = NOTICE.match(whole)
    assert notice is not None, whole[:200]
    lines = whole[notice.end() :].split(b"\n")
    numbers = [int(line) for line in lines[1:-2]]
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    assert len(whole) <= SERVER_BOUND_BYTES + MB
    assert home.cli("logs", run.name).stdout.startswith(notice[0].decode())
    late = b"".join(reading)
    assert NOTICE.search(late) and late.endswith(whole[-100:]), "who reads along too slowly is told, too"


@pytest.mark.parametrize("agent_dies", [False, True])
def test_a_server_that_is_away_while_a_job_prints_too_much_tells_what_is_lost(
    little: None, home: Home, agent_dies: bool
) -> None:
    size = 40 * MB
    commands = [printing(MB), f"cat {home.gate()}", printing(size, MB), f"touch {home.path}/over"]
    run = home.client().runs.submit(Task(commands=commands))
    assert next(run.logs()).startswith(b"000000000\n")
    wait_for("the first part", lambda: stored_log(home).stat().st_size == MB)
    kill_for_good(home)
    home.open_gate()
    if agent_dies:
        wait_for("the job to print", lambda: host_log(home).stat().st_size > 5 * MB)
        home.kill_agent()
    wait_for("the end of the job", lambda: (home.path / "over").exists())
    if not agent_dies:
        wait_for("room", lambda: disk_bytes(host_log(home)) <= AGENT_BOUND_BYTES + (1 << 16))
    printed = b"".join(home.client().runs.get(run.name).logs())  # type: ignore[union-attr]
    run.refresh()
    assert run.status is RunStatus.DONE
    assert printed.endswith(numbered(size + MB - 1000, size + MB))
    assert_right_but_for_notices(printed.replace(b"open\n", b""))
    assert any("its host could not keep it until the server took it" in message for message in losses(home, run))


def kill_for_good(home: Home) -> None:
    """Kill the server; it comes back when somebody asks for it."""
    home.kill_server()
    wait_for("no server", lambda: home.server_pid() is None)


@pytest.mark.server("shared", engine="engine")
@pytest.mark.parametrize("image", [None, SHELL_IMAGE], ids=["process", "container"])
def test_the_last_lines_of_a_graceful_stop_are_kept(home: Home, image: str | None) -> None:
    script = "trap 'for i in $(seq 1 2000); do echo bye $i; done; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    run = home.client().runs.submit(Task(commands=[script], image=image, stop_duration="1m"))
    printed = run.logs()
    assert next(printed) == b"up\n"
    run.stop()
    last = b"".join(b"bye %d\n" % number for number in range(1, 2001))
    assert b"".join(printed).removeprefix(b"Terminated\n") == last, "the shell may tell of its `sleep`"


def test_a_bound_that_is_no_number_is_one_clear_message(home: Home) -> None:
    home.env["DSTACK_LOG_BYTES_MAX"] = "10GB"
    result = home.cli("server", "--port", "0")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "error: DSTACK_LOG_BYTES_MAX must be a positive number\nhint: Set the maximum size of a log in bytes\n"
    )
    assert os.listdir(home.path) == []
