"""`dstack server status`, `stop` and `restart`: of a server in the background, and of one that was started by hand."""

import json
import os

from dstack import __version__
from tests.e2e.home import Home, wait_for

SLEEPER = "type: task\nname: sleeper\ncommands: ['echo up', 'sleep 1000']\n"


def status(home: Home) -> dict[str, object]:
    shown = home.cli("server", "status", "--json")
    about: dict[str, object] = json.loads(shown.stdout)
    assert shown.returncode == (0 if about["running"] else 3), shown.stderr
    return about


def test_without_a_server_each_says_so_and_starts_none(home: Home) -> None:
    for action in ("status", "stop", "restart"):
        said = home.cli("server", action)
        assert (said.stdout, said.stderr) == ("", f"No server runs with the data folder `{home.data}`\n")
        assert said.returncode == 3
    assert status(home) == {"running": False, "data_dir": str(home.data)}
    assert not home.data.exists()


def test_a_server_in_the_background_is_shown_restarted_at_its_port_and_stopped_while_its_job_goes_on(
    home: Home,
) -> None:
    home.write("sleeper.yml", SLEEPER)
    assert home.cli("apply", "-y", "-d", "-f", "sleeper.yml").returncode == 0
    wait_for("the job to run", lambda: home.runs()[0]["status"] == "running")
    first, job = status(home), home.processes_of_jobs()
    assert {**first, "since": ""} == {
        "running": True,
        "pid": home.server_pid(),
        "data_dir": str(home.data),
        "embedded": True,
        "url": home.server_url(),
        "version": __version__,
        "since": "",
        "active_runs": 1,
        "active_jobs": 1,
    }
    shown = home.cli("server", "status").stdout
    assert f"Process      {first['pid']}, started in the background\n" in shown
    assert "Active runs  1\n" in shown
    restarted = home.cli("server", "restart")
    assert restarted.stderr == f"The server has restarted at {first['url']}\n"
    second = status(home)
    assert second["pid"] != first["pid"] and (second["url"], second["active_runs"]) == (first["url"], 1)
    stopped = home.cli("server", "stop")
    assert stopped.stderr == (
        f"The server (process {second['pid']}) has ended; 1 job continues without it\n"
        "The next command that needs a server starts it again; a command that follows a run does so at once\n"
    )
    assert home.server_pid() is None
    assert home.processes_of_jobs() == job


def test_a_server_that_was_started_by_hand_is_stopped_and_not_restarted(home: Home) -> None:
    by_hand, url = home.start_server()
    about = status(home)
    assert (about["pid"], about["url"], about["embedded"]) == (by_hand.pid, url, False)
    refused = home.cli("server", "restart")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: The server (process {by_hand.pid}) was started by hand")
    os.kill(by_hand.pid, 0)
    stopped = home.cli("server", "stop")
    assert stopped.stderr == f"The server (process {by_hand.pid}) has ended; it had no jobs\n"
    assert by_hand.wait(timeout=30) is not None
