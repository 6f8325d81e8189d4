"""Whoever is killed, at whatever moment: the job goes on, and nothing of what it did is lost."""

import random

import pytest

from dstack.api import Run, Task
from tests.e2e.home import Home

FOUNDATIONS = ["file", "postgres", "postgres and s3"]

LINES = 400


def submit(home: Home, name: str, exit_code: int = 7) -> Run:
    """A job that prints numbered lines for about two seconds and then ends with a code of its own."""
    script = f'i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo "{name} line $i"; sleep 0.005; done; exit {exit_code}'
    return home.client().runs.submit(run_name=name, configuration=Task(commands=[script]))


def whole_log(name: str) -> bytes:
    return b"".join(b"%s line %d\n" % (name.encode(), number) for number in range(1, LINES + 1))


def read_until(run: Run, part: bytes) -> None:
    """Wait until the job has printed this: it runs, and its output arrives."""
    seen = b""
    for chunk in run.logs():
        seen += chunk
        if part in seen:
            return
    raise AssertionError(f"the log ended without {part!r}: {seen[-200:]!r}")


def assert_all_is_right(run: Run, name: str, exit_code: int = 7) -> None:
    assert b"".join(run.logs()) == whole_log(name)
    run.refresh()
    assert (run.status, run.exit_code) == ("failed", exit_code)


def test_a_job_goes_on_when_the_server_is_killed(home: Home) -> None:
    run = submit(home, "one")
    read_until(run, b"line 20\n")
    home.kill_server()
    assert_all_is_right(run, "one")


def test_a_job_goes_on_when_its_agent_is_killed(home: Home) -> None:
    run = submit(home, "one")
    read_until(run, b"line 20\n")
    home.kill_agent()
    assert_all_is_right(run, "one")


def test_a_job_that_ends_while_nobody_lives_is_known_in_full_afterwards(home: Home) -> None:
    run = home.client().runs.submit(
        run_name="alone", configuration=Task(commands=["echo begin", f"cat {home.gate()}", "echo end", "exit 5"])
    )
    read_until(run, b"begin\n")
    home.kill_server()
    home.kill_agent()
    home.open_gate()
    home.wait_for_no_supervisor()
    assert b"".join(run.logs()) == b"begin\nopen\nend\n"
    run.refresh()
    assert (run.status, run.exit_code) == ("failed", 5)


def test_killing_both_at_random_moments_loses_nothing(home: Home) -> None:
    kill_both(home, random.Random(20), times=3)


@pytest.mark.deep
@pytest.mark.timeout(1200)  # on PostgreSQL a new server waits for the lease of the dead one to run out
def test_killing_both_at_random_moments_twenty_times_loses_nothing(home: Home, seed: int) -> None:
    kill_both(home, random.Random(seed), times=20)


def kill_both(home: Home, chance: random.Random, times: int) -> None:
    """Run jobs one after the other, and kill server and agent during each."""
    names = [f"job-{number}" for number in range(times)]
    for name in names:
        run = submit(home, name)
        first, second = chance.choice([(home.kill_server, home.kill_agent), (home.kill_agent, home.kill_server)])
        moments = sorted(chance.sample(range(1, LINES), 2))
        read_until(run, b"line %d\n" % moments[0])
        first()
        read_until(run, b"line %d\n" % moments[1])
        second()
        assert_all_is_right(run, name)
    assert sorted(run.name for run in home.client().runs.list(all=True)) == sorted(names)


@pytest.mark.parametrize("victim", ["server", "agent"])
def test_a_stop_that_was_asked_for_before_the_crash_is_not_forgotten(home: Home, victim: str) -> None:
    stubborn = "trap '' TERM; echo ready; while true; do sleep 0.05; done"
    run = home.client().runs.submit(run_name="stubborn", configuration=Task(commands=[stubborn], stop_duration=1))
    read_until(run, b"ready\n")
    run.stop()
    {"server": home.kill_server, "agent": home.kill_agent}[victim]()
    assert b"".join(run.logs()).startswith(b"ready\n")
    run.refresh()
    assert (run.status, run.reason) == ("terminated", "stopped_by_user")
