"""When not all fit at once: who waits, for what, in which order, and what a second attempt is."""

import pytest

from dstack.api import Resources, Run, Task
from tests.e2e.home import Home, wait_for

FOUNDATIONS = ["file", "postgres"]
pytestmark = pytest.mark.server("shared")


def submit(home: Home, name: str, *commands: str, priority: int = 0) -> Run:
    """A job that needs the whole machine, so that only one runs at a time."""
    everything = Resources(cpu=home.cpus())
    task = Task(commands=list(commands), resources=everything, priority=priority)
    return home.client().runs.submit(run_name=name, configuration=task)


def wait_until_running(run: Run) -> None:
    for now in run.changes():
        if now.status == "running":
            return
    raise AssertionError(f"{run.name} has ended: {run.detail}")


def wait_for_the_end(run: Run) -> None:
    for _ in run.changes():
        pass


def test_who_finds_no_room_waits_says_so_and_starts_when_the_first_has_ended(home: Home) -> None:
    first = submit(home, "first", f"cat {home.gate()}", f"echo first >> {home.path}/order")
    wait_until_running(first)
    second = submit(home, "second", f"echo second >> {home.path}/order")
    second.refresh()
    place = f"place 1 of 1 in the queue: needs {home.cpus()} CPUs and "
    assert second.status == "submitted" and second.detail.startswith(place)
    assert (second.view.queue_place, second.view.queue_length) == (1, 1)
    assert second.hostname is None
    assert second.backend is None
    lines = home.cli("ps").stdout.splitlines()
    assert lines[1].startswith("second  ")
    assert place in lines[1] and " are free" in lines[1]
    home.open_gate()
    wait_for_the_end(second)
    first.refresh()
    assert [str(run.status) for run in (first, second)] == ["done", "done"]
    assert second.hostname == "127.0.0.1"
    assert (home.path / "order").read_text() == "first\nsecond\n"


def test_small_jobs_run_side_by_side(home: Home) -> None:
    runs = [
        home.client().runs.submit(run_name=f"small-{number}", configuration=Task(commands=[f"cat {home.gate()}"]))
        for number in range(home.cpus())
    ]
    for run in runs:
        wait_until_running(run)
    for run in runs:
        run.stop()


def test_the_higher_priority_goes_first_and_then_the_earlier_submit(home: Home) -> None:
    busy = submit(home, "busy", f"cat {home.gate()}")
    wait_until_running(busy)
    waiting = [
        submit(home, name, f"echo {name} >> {home.path}/order", priority=priority)
        for name, priority in (("low", 0), ("high", 100), ("middle", 50), ("middle-too", 50))
    ]
    home.open_gate()
    for run in waiting:
        wait_for_the_end(run)
    assert (home.path / "order").read_text().split() == ["high", "middle", "middle-too", "low"]


def test_who_is_stopped_in_the_queue_never_runs_and_lets_the_next_pass(home: Home) -> None:
    busy = submit(home, "busy", f"cat {home.gate()}")
    wait_until_running(busy)
    unlucky = submit(home, "unlucky", f"touch {home.path}/ran")
    following = submit(home, "following", "echo mine")
    unlucky.stop()
    wait_for_the_end(unlucky)
    assert (unlucky.status, unlucky.reason, unlucky.exit_code) == ("terminated", "stopped_by_user", None)
    assert b"".join(unlucky.logs()) == b""
    busy.refresh()
    assert busy.status == "running"
    home.open_gate()
    assert b"".join(following.logs()) == b"mine\n"
    assert not (home.path / "ran").exists()


def test_a_stop_of_the_running_job_makes_room(home: Home) -> None:
    first = submit(home, "first", f"cat {home.gate()}")
    wait_until_running(first)
    second = submit(home, "second", "echo mine")
    first.stop()
    assert b"".join(second.logs()) == b"mine\n"
    first.refresh()
    assert (first.status, first.reason) == ("terminated", "stopped_by_user")


@pytest.mark.server("own")
def test_the_queue_outlives_the_server(home: Home) -> None:
    first = submit(home, "first", f"cat {home.gate()}")
    wait_until_running(first)
    second = submit(home, "second", "echo mine")
    home.kill_server()
    home.open_gate()
    assert b"".join(second.logs()) == b"mine\n"


def test_what_failed_once_is_tried_again_and_both_attempts_are_in_the_log(home: Home) -> None:
    marker = home.path / "tried"
    flaky = f"if [ -e {marker} ]; then echo second; else touch {marker}; echo first; exit 5; fi"
    run = home.client().runs.submit(run_name="flaky", configuration=Task(commands=[flaky], retry=True))
    chunks = run.logs()
    assert next(chunks) == b"first\n"
    for now in run.changes():
        if now.status == "pending":
            break
    assert run.detail.startswith("attempt 1 failed (exit code 5); attempt 2 starts at ")
    wait_for("the second attempt, which nothing but its time holds up", lambda: home.runs()[0]["status"] == "done")
    assert b"".join(chunks) == b"second\n"
    run.refresh()
    assert (run.status, run.exit_code) == ("done", 0)
    assert [(job.attempt, str(job.status)) for job in run.view.jobs] == [(2, "done")]
    [first] = run.view.jobs[0].earlier
    assert (first.attempt, str(first.status), first.exit_code) == (1, "failed", 5)
    assert "0/0 attempt 1" in home.cli("ps", "-a", "-v").stdout
    assert b"".join(run.logs()) == b"first\nsecond\n"


def test_without_retry_or_for_another_event_it_stays_failed(home: Home) -> None:
    client = home.client()
    for name, fields in (("never", {}), ("other", {"retry": {"on_events": ["no-capacity", "interruption"]}})):
        run = client.runs.submit(run_name=name, configuration=Task(commands=["exit 5"], **fields))
        wait_for_the_end(run)
        assert (run.status, run.exit_code) == ("failed", 5)


def test_who_waits_for_the_next_attempt_can_be_stopped(home: Home) -> None:
    run = home.client().runs.submit(run_name="flaky", configuration=Task(commands=["exit 5"]), retry_policy=True)
    for now in run.changes():
        if now.status == "pending":
            break
    run.stop()
    wait_for_the_end(run)
    assert (run.status, run.reason) == ("terminated", "stopped_by_user")
