"""The way into a job: its ports on this machine, who may have them, and what is left of it afterwards."""

import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dstack.api import PortUsedError, Run, Task
from tests.e2e.home import Home, wait_for
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.server("shared")

SERVER = """\
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 1000000 if self.path == "/much" else b"hello from the job")
    def log_message(self, *arguments):
        pass
server = HTTPServer(("127.0.0.1", {port}), Handler)
print("serving", flush=True)
server.serve_forever()
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def get(port: int, path: str = "/") -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as response:
        return bytes(response.read())


def serving(home: Home, port: int, mapping: str, name: str = "web") -> Run:
    """A job that serves HTTP at the port."""
    command = f"{sys.executable} -u - <<'END'\n{SERVER.format(port=port)}END"
    return home.client().runs.submit(run_name=name, configuration=Task(commands=[command], ports=[mapping]))


def wait_until_serving(run: Run) -> None:
    assert next(run.logs()).startswith(b"serving")


def waiting(home: Home, *, name: str = "idle") -> Run:
    return home.client().runs.submit(run_name=name, configuration=Task(commands=[f"cat {home.gate()}"]))


def test_the_same_port_here_and_there_needs_no_forward_and_is_left_to_the_job(home: Home) -> None:
    (port,) = free_ports(1)
    run = serving(home, port, str(port))
    assert run.attach() is True
    wait_until_serving(run)
    assert run.ports == {port: port}
    assert get(port) == b"hello from the job"
    run.detach()
    assert run.ports is None
    assert get(port) == b"hello from the job", "the port is the job's own, attached or not"
    run.stop()


def test_another_local_port_leads_through_the_tunnel_until_it_is_closed(home: Home) -> None:
    local, port = free_ports(2)
    run = serving(home, port, f"{local}:{port}")
    run.attach()
    wait_until_serving(run)
    assert run.ports == {port: local}
    assert get(local) == b"hello from the job"
    assert len(get(local, "/much")) == 1_000_000
    run.detach()
    run.detach()
    assert not is_open(local)
    assert run.attach() is True, "and again"
    assert get(local) == b"hello from the job"
    run.stop()
    assert not is_open(local), "a stop detaches"


def test_any_local_port_will_do_for_a_star(home: Home) -> None:
    (port,) = free_ports(1)
    run = serving(home, port, f"*:{port}")
    run.attach()
    wait_until_serving(run)
    assert run.ports is not None
    local = run.ports[port]
    assert get(local) == b"hello from the job"
    run.detach()
    assert not is_open(local) or local == port


def test_a_port_may_be_chosen_when_attaching(home: Home) -> None:
    (local, port) = free_ports(2)
    run = serving(home, port, str(port))
    wait_until_serving(run)
    run.attach(ports_overrides=[f"{local}:{port}"])
    assert run.ports == {port: local}
    assert get(local) == b"hello from the job"


@pytest.mark.server("own")
def test_a_tunnel_comes_back_after_the_agent_was_killed(home: Home) -> None:
    local, port = free_ports(2)
    run = serving(home, port, f"{local}:{port}")
    run.attach()
    wait_until_serving(run)
    assert get(local) == b"hello from the job"
    home.kill_agent()

    def answers() -> bool:
        try:
            return get(local) == b"hello from the job"
        except OSError:
            return False

    wait_for("the tunnel", answers)


@pytest.mark.parametrize("mapping", ["{used}", "{used}:80"])
def test_a_port_in_use_is_known_before_anything_is_created(home: Home, mapping: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        used = server.getsockname()[1]
        with pytest.raises(PortUsedError, match=f"The local port {used} is in use on `127.0.0.1`"):
            serving(home, used, mapping.format(used=used))
    assert home.client().runs.list(all=True) == []


def test_a_port_is_held_from_the_submit_on(home: Home) -> None:
    local, port = free_ports(2)
    run = serving(home, port, f"{local}:{port}")
    with pytest.raises(PortUsedError):
        serving(home, port, f"{local}:{port}", name="other")
    assert [one.name for one in home.client().runs.list(all=True)] == ["web"]
    run.stop()
    assert not is_open(local)


@pytest.fixture
def attached_elsewhere(home: Home) -> Iterator[tuple[int, int]]:
    """A job and a process that is attached to it: the local port and the job's."""
    local, port = free_ports(2)
    run = serving(home, port, f"{local}:{port}")
    run.detach()  # lets go of the port
    wait_until_serving(run)
    other = home.start("attach", "web")
    assert other.stderr is not None
    assert other.stderr.readline() == f"Port {port} of `web` is forwarded to localhost:{local}\n"
    assert (
        other.stderr.readline()
        == "Attached to `web`: `ssh -F ~/.ssh/config web` opens a shell in it. Ctrl-C detaches; the run continues\n"
    )
    yield local, port
    other.terminate()
    other.communicate(timeout=PATIENCE_S)
    wait_for("the port to be closed", lambda: not is_open(local))


def test_who_attaches_second_uses_the_ports_of_the_first(home: Home, attached_elsewhere: tuple[int, int]) -> None:
    local, port = attached_elsewhere
    run = home.client().runs.get("web")
    assert run is not None
    assert run.attach() is True
    assert run.ports == {port: local}
    run.detach()
    assert get(local) == b"hello from the job", "they are the other one's, and stay open"


def test_who_attaches_second_with_other_ports_is_refused(home: Home, attached_elsewhere: tuple[int, int]) -> None:
    _, port = attached_elsewhere
    run = home.client().runs.get("web")
    assert run is not None
    with pytest.raises(PortUsedError, match=r"The run `web` is attached by process \d+ already"):
        run.attach(ports_overrides=[f"*:{port}"])


def ssh_files(home: Home) -> tuple[str, str]:
    """The user's own SSH configuration, and ours."""

    def text(path: Path) -> str:
        return path.read_text() if path.exists() else ""

    return text(home.path / ".ssh" / "config"), text(home.path / ".dstack" / "ssh" / "config")


def test_ssh_knows_the_run_while_it_is_attached(home: Home) -> None:
    home.write(".ssh/config", "Host mine\n  HostName example.com\n")
    run = waiting(home)
    run.attach()
    own, ours = ssh_files(home)
    assert own == "Include ~/.dstack/ssh/config\nHost mine\n  HostName example.com\n", "first, and nothing is lost"
    assert ours.startswith("Host idle\n  HostName 127.0.0.1\n  Port ")
    assert "StrictHostKeyChecking yes" in ours
    assert (home.path / ".dstack" / "ssh" / "config").stat().st_mode & 0o777 == 0o600
    run.detach()
    assert ssh_files(home) == (own, "")
    run.attach()
    assert ssh_files(home)[0] == own, "the line comes once"
    home.open_gate()


def test_a_run_that_has_failed_cannot_be_attached_to_and_one_that_is_done_can(home: Home) -> None:
    runs = home.client().runs
    failed = runs.submit(run_name="failed", configuration=Task(commands=["exit 1"]))
    done = runs.submit(run_name="done", configuration=Task(commands=["true"]))
    for run, success in ((failed, False), (done, True)):
        assert b"".join(run.logs()) == b""
        assert run.attach() is success
        assert run.ports is None
    assert ssh_files(home)[1] == ""


def test_a_run_that_fails_while_somebody_attaches_is_a_failed_run_and_no_error(home: Home) -> None:
    for number in range(10):  # the end of each comes at another moment of the way
        task = Task(commands=[f"sleep 0.0{number}; exit 1"])
        run = home.client().runs.submit(run_name="failing", configuration=task)
        assert run.attach() is (run.ports is not None)
        assert b"".join(run.logs()) == b""
        run.detach()


def test_the_command_attaches_shows_the_log_and_exits_as_the_job_did(home: Home) -> None:
    commands = ["echo ready", f"cat {home.gate()}", "exit 9"]
    home.client().runs.submit(run_name="one", configuration=Task(commands=commands))
    attached = home.start("attach", "--logs", "one")
    assert attached.stdout is not None
    assert attached.stdout.readline() == "ready\n"
    home.open_gate()
    assert attached.communicate(timeout=PATIENCE_S)[0] == "open\n"
    assert attached.returncode == 9
    assert ssh_files(home)[1] == ""
