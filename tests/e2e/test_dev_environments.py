"""Dev environments: the editor's link, their end when nobody comes, and the ways in that people use over days."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from dstack.api import DevEnvironment, Task
from tests.e2e.home import Home, wait_for
from tests.e2e.test_attach import SERVER, free_ports, get
from tests.engines import SHELL_IMAGE
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.server("shared")

KINDS = ["process", pytest.param("container", marks=pytest.mark.server(engine="engine"))]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, home: Home) -> str:
    """In what the jobs of this home run."""
    return str(request.param)


def image(kind: str) -> dict[str, str]:
    return {"image": SHELL_IMAGE} if kind == "container" else {}


def ssh(home: Home, *args: str) -> list[str]:
    return ["ssh", "-F", str(home.path / ".dstack/ssh/config"), *args]


def said(home: Home, *args: str) -> str:
    """What an `ssh ARGS` prints."""
    done = home.run_program(*ssh(home, *args))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_apply_shows_the_link_once_ssh_works_and_init_as_log_and_exec_needs_no_attach(home: Home, kind: str) -> None:
    home.write(
        ".dstack.yml",
        f"type: dev-environment\nname: desk\nide: cursor\ninit: [echo is ready]\n"
        f"working_dir: deep/down\n{'image: ' + SHELL_IMAGE if kind == 'container' else ''}\n",
    )
    applied = home.start("apply", "-y")
    assert applied.stdout is not None and applied.stderr is not None
    link = next(line for line in applied.stderr if "://" in line).split(": open ")
    assert link[0] == "Cursor"
    head, slash, folder = link[1].strip().removeprefix("cursor://vscode-remote/").partition("/")
    assert head == "ssh-remote+desk"
    assert said(home, "desk", "pwd").strip() == slash + folder
    if kind == "container":
        assert slash + folder == "/workflow/deep/down"
    back = "Open a shell in it with `ssh -F ~/.ssh/config desk`; attach again later with `dstack attach desk`\n"
    assert applied.stderr.readline() == back
    assert applied.stdout.readline() == "is ready\n"
    again = home.start("attach", "desk")
    assert again.stderr is not None and again.stderr.readline() == ": open ".join(link), "who joins, sees it too"
    assert home.cli("exec", "desk", "--", "sh", "-c", "exit 4").returncode == 4
    assert home.cli("stop", "-y", "desk").returncode == 0
    applied.communicate(timeout=PATIENCE_S)
    assert applied.returncode != 0
    assert home.client().runs.list()[0].editor_url is None


def test_version_of_an_editor_that_is_not_installed_in_advance_is_refused_by_name(home: Home) -> None:
    home.write(".dstack.yml", "type: dev-environment\nide: cursor\nversion: 1.96.0\n")
    refused = home.cli("apply", "-y")
    assert refused.returncode == 1
    assert "install the server of a given version of cursor (`version`)" in refused.stderr


@pytest.mark.server("own")
def test_it_lives_while_somebody_is_connected_and_ends_when_nobody_is(home: Home, kind: str) -> None:
    runs = home.client().runs
    desk = DevEnvironment.model_validate({"ide": "vscode", "init": ["trap 'echo bye' EXIT"], **image(kind)})
    run = runs.submit(desk, run_name="desk")
    assert run.attach()
    assert run.editor_url is not None and run.editor_url.startswith("vscode://vscode-remote/ssh-remote+desk/")
    guest = subprocess.Popen(
        ssh(home, "desk", "echo in; read a; sleep 3; echo still in; read b"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert guest.stdin is not None and guest.stdout is not None and guest.stdout.readline() == b"in\n"
    run.detach()
    runs.exec_plan(runs.get_plan(desk.model_copy(update={"inactivity_duration": 1}), run_name="desk"))
    os.write(guest.stdin.fileno(), b"\n")
    assert guest.stdout.readline() == b"still in\n"
    run.refresh()
    assert run.status == "running", "it may be alone for 1 s, and was not for 3"
    home.kill_agent()  # throws the guest out; the next agent counts from its own start
    guest.communicate(timeout=PATIENCE_S)
    for _ in run.changes():
        pass
    assert (run.status, run.reason, run.detail) == ("terminated", "inactivity", "no user was connected for 1s")


@pytest.fixture
def elsewhere(home: Home, tmp_path: Path) -> "dict[str, str]":
    """The environment of a second machine of the same user: no file in common, only the server's address and token."""
    assert home.cli("ps").returncode == 0, "the server is there"
    server = json.loads((home.data / "server.json").read_text())
    known = {"DSTACK_SERVER_URL": server["url"], "DSTACK_TOKEN": server["token"], "DSTACK_PROJECT": home.project}
    return {**home.env, **known, "HOME": str(tmp_path)}


def test_a_second_machine_of_the_same_user_comes_in_with_its_own_key_and_a_strangers_key_does_not(
    home: Home, kind: str, elsewhere: dict[str, str]
) -> None:
    task = Task.model_validate({"commands": ["echo up; sleep 600"], **image(kind)})
    run = home.client().runs.submit(task, run_name="box")
    assert run.attach()
    other = Path(elsewhere["HOME"])
    attached = subprocess.Popen(home.command("attach", "box"), env=elsewhere, stderr=subprocess.PIPE, text=True)
    assert attached.stderr is not None
    assert (
        attached.stderr.readline()
        == "Attached to `box`: `ssh -F ~/.ssh/config box` opens a shell in it. Ctrl-C detaches; the run continues\n"
    )
    keys = [(home_of / ".dstack/ssh/id_ed25519").read_bytes() for home_of in (home.path, other)]
    assert keys[0] != keys[1]
    inside = subprocess.run(["ssh", "-F", str(other / ".dstack/ssh/config"), "box", "echo in"], capture_output=True)
    assert inside.stdout == b"in\n"
    executed = subprocess.run(home.command("exec", "box", "--", "echo", "in"), env=elsewhere, capture_output=True)
    assert executed.stdout == b"in\n"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other / "stranger")], check=True)
    config = home.path / ".dstack/ssh/config"
    own = f'IdentityFile "{home.path}/.dstack/ssh/id_ed25519"'
    config.write_text(config.read_text().replace(own, f'IdentityFile "{other}/stranger"'))
    stranger = home.run_program(*ssh(home, "box", "echo in"))
    assert stranger.returncode == 255 and "Permission denied (publickey)" in stranger.stderr
    assert (
        "dstack: this key is not authorized for the job; run `dstack attach RUN` to authorize yours" in stranger.stderr
    )
    attached.terminate()
    attached.communicate(timeout=PATIENCE_S)


def retried(home: Home, port: int) -> Task:
    """Fails once the gate is open, and serves HTTP at the port in its second attempt."""
    first = f"mkdir {home.path}/tried && {{ echo first; cat {home.gate()}; exit 1; }}"
    serve = f"python3 -u - <<'END'\n{SERVER.format(port=port)}END"
    return Task.model_validate(
        {
            "commands": [f"[ -d {home.path}/tried ] || {{ {first}; }}", serve],
            "ports": [f"*:{port}"],
            "retry": {"on_events": ["error"], "duration": "1h"},
        }
    )


def test_who_is_attached_is_led_into_the_next_attempt(home: Home) -> None:
    (port,) = free_ports(1)
    run = home.client().runs.submit(retried(home, port), run_name="again")
    assert run.attach()
    before = said(home, "again", "echo $DSTACK_JOB_ID")
    home.open_gate()

    def job() -> str:
        done = home.run_program(*ssh(home, "again", "echo $DSTACK_JOB_ID"))
        return done.stdout if done.returncode == 0 else ""

    wait_for("the next attempt", lambda: job() not in ("", before), patience_s=PATIENCE_S)
    assert run.ports is not None
    local = run.ports[port]

    def answers() -> bool:
        try:
            return get(local) == b"hello from the job"
        except OSError:
            return False

    wait_for("the port of the next attempt", answers)
    run.stop(abort=True)


SAVES = "trap 'echo saving; sleep 0.3; echo saved; exit 0' TERM; echo started; while :; do sleep 0.1; done"
GOES_ON = "trap 'echo no' TERM; echo started; while :; do sleep 0.1; done"


@pytest.mark.parametrize(
    ("script", "stop_duration", "options", "last", "status"),
    [
        (SAVES, 60, [], ["started", "saving", "saved"], "terminated"),
        (GOES_ON, 1, [], ["started", "no"], "terminated"),
        (SAVES, 60, ["-x"], ["started"], "aborted"),
    ],
)
def test_a_stop_asks_waits_and_kills_and_the_last_lines_are_kept(
    home: Home, kind: str, script: str, stop_duration: int, options: list[str], last: list[str], status: str
) -> None:
    task = {"commands": [f"sh -c {shlex.quote(script)}"], "stop_duration": stop_duration, **image(kind)}
    run = home.client().runs.submit(Task.model_validate(task), run_name="worker")
    assert next(run.logs()) == b"started\n"
    assert home.cli("stop", "-y", *options, "worker").returncode == 0
    lines = b"".join(run.logs()).decode().splitlines()
    assert [line for line in lines if "Terminated" not in line] == last, "but for what a shell says of its `sleep`"
    run.refresh()
    assert (str(run.status), str(run.view.jobs[0].status)) == ("terminated", status)
    assert home.processes_of_jobs() == []
