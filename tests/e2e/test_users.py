"""Users whom the system's list does not have: an id, and nothing else."""

import os
import shutil
import subprocess
import sys

import pytest

from dstack.agent.processes import MARKER
from dstack.api import Task
from tests.e2e.home import Home, wait_for
from tests.e2e.tasks import on_engine
from tests.e2e.test_attach import free_ports
from tests.e2e.test_attach import get as get_from
from tests.engines import SHELL_IMAGE, DockerEngine

USER = "12345"
AS_USER = ("unshare", "--user", f"--map-user={USER}", f"--map-group={USER}")
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
SERVER = f"{sys.executable} -m http.server --bind 127.0.0.1"


@pytest.fixture
def nameless(home: Home) -> Home:
    """A home whose programs run as a user without a name."""
    if shutil.which("unshare") is None or subprocess.run([*AS_USER, "true"], capture_output=True).returncode != 0:
        pytest.skip("no namespace of users can be made here")
    home.env = {name: value for name, value in home.env.items() if name not in (*NAMES, MARKER)}
    return home


def test_server_agent_and_client_of_a_user_without_a_name_run_enter_and_forward(nameless: Home) -> None:
    port, local = free_ports(2)
    command = [*AS_USER, *nameless.command()]
    configuration = f"type: task\nname: web\ncommands: ['id -u', '{SERVER} {port}']\nports: ['{local}:{port}']\n"
    nameless.write("web.yml", configuration)
    applying = nameless.start_program(*command, "apply", "-y", "-f", "web.yml")
    wait_for("the port of the job", lambda: _answers(local))
    entered = nameless.run_program(*command, "exec", "web", "--", "id", "-u")
    assert (entered.stdout, entered.returncode) == (f"{USER}\n", 0), entered.stderr
    assert nameless.run_program(*command, "stop", "-y", "web").returncode == 0
    assert applying.communicate(timeout=60)[0].startswith(f"{USER}\n")


def test_a_user_without_a_home_is_told_what_to_do(nameless: Home) -> None:
    del nameless.env["HOME"]
    nameless.env["PYTHONPATH"] = os.pathsep.join(sys.path)
    said = nameless.run_program(*AS_USER, *nameless.command("ps"))
    assert (said.stderr, said.returncode) == (
        f"error: The user {USER} has no home folder\nhint: Set `HOME` to a folder that this user may write\n",
        1,
    )


def test_a_container_of_a_user_without_a_name_is_entered_and_forwarded(
    home: Home, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_engine(home, engine, monkeypatch) as inside:
        (local,) = free_ports(1)
        command = "echo hello > index.html; exec httpd -f -p 127.0.0.1:8000"
        task = Task(commands=[command], image=SHELL_IMAGE, user=USER, ports=[f"{local}:8000"])
        run = inside.client().runs.submit(run_name="box", configuration=task)
        run.attach()
        wait_for("the port of the container", lambda: _answers(local))
        entered = inside.cli("exec", "box", "--", "id", "-u")
        assert (entered.stdout, entered.returncode) == (f"{USER}\n", 0), entered.stderr
        run.stop()


def _answers(port: int) -> bool:
    try:
        return bool(get_from(port))
    except OSError:
        return False
