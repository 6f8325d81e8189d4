"""A command that a signal ends, such as that of a closed terminal, closes what it has opened; the run goes on."""

import signal
import urllib.request

import pytest

from dstack.api import RunStatus, Task
from tests.e2e.home import Home, wait_for
from tests.e2e.test_attach import free_ports, serving, ssh_files
from tests.patience import PATIENCE_S


@pytest.mark.server("shared")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_run_that_was_attached_to_goes_on_and_shadows_no_name(home: Home, number: signal.Signals) -> None:
    (port,) = free_ports(1)
    run = serving(home, port, f"{port}")
    attached = home.start("attach", "web", "--host", "::1", "--port", f"*:{port}")
    assert attached.stderr is not None
    line = next(line for line in attached.stderr if line.startswith("Port "))
    address = line.split()[-1]
    assert address.startswith("[::1]:")
    wait_for("the server of the job", lambda: b"serving" in next(run.logs()))
    with urllib.request.urlopen(f"http://{address}", timeout=PATIENCE_S) as response:
        assert response.read() == b"hello from the job"
    wait_for("the name", lambda: "Host web\n" in ssh_files(home)[1])
    attached.send_signal(number)
    assert attached.wait(PATIENCE_S) == 128 + number
    assert ssh_files(home)[1] == ""
    run.refresh()
    assert run.status is RunStatus.RUNNING


@pytest.mark.server("shared")
def test_run_that_was_applied_goes_on_and_shadows_no_name(home: Home) -> None:
    home.write("run.yml", f"type: task\nname: idle\ncommands: ['echo ready; cat {home.gate()}']\n")
    applied = home.start("apply", "-f", "run.yml", "-y")
    assert applied.stdout is not None and applied.stdout.readline() == "ready\n"
    wait_for("the name", lambda: "Host idle\n" in ssh_files(home)[1])
    applied.send_signal(signal.SIGHUP)
    assert applied.wait(PATIENCE_S) == 128 + signal.SIGHUP
    assert ssh_files(home)[1] == ""
    assert [run["status"] for run in home.runs()] == ["running"]


def test_server_listens_at_the_loopback_of_ipv6(home: Home) -> None:
    server = home.start("server", "--host", "::1", "--port", "0")
    assert server.stdout is not None
    assert server.stdout.readline().startswith("The server is at http://[::1]:")
    run = home.client().runs.submit(Task(commands=["echo hello"]))
    assert b"".join(run.logs()) == b"hello\n"
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_S) == -signal.SIGTERM
