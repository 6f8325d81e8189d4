"""When a job is over, so is everything it started, however it tried to get away."""

import pytest

from dstack.api import Run, Task
from tests.e2e.home import Home

pytestmark = pytest.mark.server("shared")

ESCAPE = """\
cat > escape.py <<'END'
import os, signal, sys, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
for generation in range(2):
    if os.fork():
        break
    os.setsid()
print("escaped", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
END
python3 escape.py &
python3 escape.py &
"""


def submit(home: Home, *commands: str, **fields: object) -> Run:
    task = Task(commands=[ESCAPE, *commands], stop_duration=1, **fields)  # type: ignore[arg-type]
    return home.client().runs.submit(run_name="escape", configuration=task)


def read_until_all_escaped(run: Run) -> None:
    seen = b""
    for chunk in run.logs():
        seen += chunk
        if seen.count(b"escaped") == 6:
            return
    raise AssertionError(seen)


def read_to_the_end(run: Run) -> None:
    for _ in run.logs():
        pass
    run.refresh()


@pytest.mark.parametrize("abort", [False, True])
def test_after_a_stop_nothing_is_left(home: Home, abort: bool) -> None:
    run = submit(home, "wait")
    read_until_all_escaped(run)
    assert home.processes_of_jobs()
    run.stop(abort=abort)
    read_to_the_end(run)
    assert (run.status, run.reason) == ("terminated", "aborted_by_user" if abort else "stopped_by_user")
    assert home.processes_of_jobs() == []


def test_after_a_failure_nothing_is_left_and_the_exit_code_is_kept(home: Home) -> None:
    run = submit(home, "exit 4")
    read_to_the_end(run)
    assert (run.status, run.exit_code) == ("failed", 4)
    assert home.processes_of_jobs() == []


def test_after_max_duration_nothing_is_left(home: Home) -> None:
    run = submit(home, "wait", max_duration=2)
    read_to_the_end(run)
    assert (run.status, run.reason) == ("terminated", "max_duration_exceeded")
    assert home.processes_of_jobs() == []


def test_a_job_whose_supervisor_is_killed_is_ended_and_reported(home: Home) -> None:
    run = submit(home, "wait")
    read_until_all_escaped(run)
    home.kill_supervisors()
    read_to_the_end(run)
    assert (run.status, run.reason) == ("failed", "executor_error")
    assert home.processes_of_jobs() == []
