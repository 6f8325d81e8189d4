"""A server whose database is lost, or is an older copy: what still runs is ended, and jobs wait for that."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.e2e.home import Home, wait_for

SLEEPER = "type: task\nname: {name}\ncommands: ['echo up', 'sleep 1000']\nresources: {{cpu: 1}}\n"
SHORT = "type: task\nname: short\ncommands: [echo hello]\n"


def start(home: Home, name: str) -> None:
    home.write(f"{name}.yml", SLEEPER.format(name=name))
    assert home.cli("apply", "-y", "-d", "-f", f"{name}.yml").returncode == 0
    wait_for(f"{name} to run", lambda: status_of(home, name) == "running")


def status_of(home: Home, name: str) -> str:
    return next(str(run["status"]) for run in home.runs() if run["name"] == name)


def stop_server(home: Home) -> None:
    pid = home.server_pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_for("the end of the server", lambda: home.server_pid() is None)


def jobs_alive(home: Home) -> set[str]:
    """The names of the runs that have a process."""
    names = set()
    for pid in home.processes_of_jobs():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        names |= {one.partition(b"=")[2].decode() for one in variables if one.startswith(b"DSTACK_RUN_NAME=")}
    return names


def submit_short(home: Home) -> None:
    home.write("short.yml", SHORT)
    done = home.cli("apply", "-y", "-f", "short.yml")
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


@pytest.mark.parametrize("has_agent", [True, False], ids=["with its agent", "with its job alone"])
def test_after_the_loss_of_the_database_the_next_job_runs_and_the_old_one_has_ended(
    home: Home, has_agent: bool
) -> None:
    start(home, "old")
    [before] = home.machines()
    stop_server(home)
    if not has_agent:
        home.kill_agent()
    for path in home.data.glob("server.db*"):
        path.unlink()
    submit_short(home)
    assert jobs_alive(home) == set()
    assert [run["name"] for run in home.runs()] == ["short"]
    [after] = home.machines()
    assert after.root != before.root
    assert f"Ended the orphan {before.root} in local" in home.server_log()
    assert home.cli("audit").stdout.endswith("1 machine: 1 claimed\n")


def test_after_a_copy_of_the_same_machine_came_back_the_job_it_does_not_know_ends_and_the_other_goes_on(
    home: Home,
) -> None:
    start(home, "known")
    stop_server(home)
    shutil.copy(home.data / "server.db", home.path / "copy.db")
    start(home, "unknown")
    stop_server(home)
    for path in home.data.glob("server.db*"):
        path.unlink()
    shutil.copy(home.path / "copy.db", home.data / "server.db")
    submit_short(home)
    wait_for("the end of the unknown job", lambda: jobs_alive(home) == {"known"})
    assert status_of(home, "known") == "running"
    assert {run["name"] for run in home.runs()} == {"known", "short"}


def test_after_a_copy_from_before_this_machine_came_back_its_jobs_end_with_a_reason(home: Home) -> None:
    start(home, "lost")
    stop_server(home)
    shutil.copy(home.data / "server.db", home.path / "copy.db")
    assert home.cli("stop", "-y", "-x", "lost").returncode == 0
    [machine] = home.machines()
    pid = home.agent_pid()
    assert pid is not None
    stop_server(home)
    os.kill(pid, signal.SIGTERM)
    wait_for("the end of the agent", lambda: home.agent_pid() is None)
    machine.root.rename(machine.root.with_name("another"))
    shutil.copy(home.path / "copy.db", home.data / "server.db")

    def has_ended() -> bool:
        [lost] = home.runs()
        return bool(lost["status"] == "failed")

    wait_for("the end of the lost run", has_ended)
    submit_short(home)  # not before: the machine that is missing could get the new job too, which ends with it
    [lost] = [run for run in home.runs() if run["name"] == "lost"]
    assert "no longer has the machine" in lost["jobs"][0]["detail"] or lost["reason"] in (
        "interrupted",
        "instance_unreachable",
    )
