"""What the server refuses: one clear message, the exit code, and nothing was created."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from dstack.api import (
    Client,
    ConfigurationError,
    LocalRepo,
    NoCapacityError,
    PortUsedError,
    ResourceExistsError,
    Task,
    UnauthorizedError,
)
from dstack.api._transport import NEW_TOKEN
from tests.e2e.home import Home

pytestmark = pytest.mark.server("shared")

TASK = "type: task\ncommands: [echo hello]\n"


def assert_refused(home: Home, *args: str, said: str, code: int = 1) -> None:
    """The command fails with exactly these words on stderr and none on stdout."""
    result = home.cli(*args, input="")
    said_here = result.stderr.replace(str(home.path), "~")
    assert (said_here, result.stdout, result.returncode) == (said, "", code)


@pytest.fixture
def used_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_a_project_that_the_server_has_not_is_refused(home: Home) -> None:
    said = "error: There is no project `other`\nhint: Check `project` in `~/.dstack/config.yml` or `DSTACK_PROJECT`\n"
    assert_refused(home, "ps", "--project", "other", said=said)


def test_a_wrong_token_is_refused(home: Home) -> None:
    assert home.runs() == []
    url = home.server_url()
    home.env |= {"DSTACK_SERVER_URL": url, "DSTACK_TOKEN": "wrong", "DSTACK_PROJECT": home.project}
    said = f"error: The server does not know this token: `{url}`\nhint: {NEW_TOKEN}\n"
    assert_refused(home, "ps", said=said)
    client = Client.from_config(home.project, url, "wrong")
    with closing(client), pytest.raises(UnauthorizedError) as caught:
        client.runs.submit(Task(commands=["true"]))
    assert f"error: {caught.value}\n" == said
    assert home.client().runs.list(all=True) == []


IMPOSSIBLE = {
    "memory": ("memory: 900TB", "memory: asked 900TB, has {memory}"),
    "cpu and gpu": ("{cpu: 1000.., gpu: 'H100:64'}", "cpu: asked 1000.., has {cpus}; gpu: asked 64 H100, has {gpus}"),
    "disk": ("disk: 90000TB..", "disk: asked 90000TB.., has {disk}"),
}


@pytest.mark.parametrize(("asked", "lacks"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_resources_are_refused_with_what_is_asked_and_what_this_machine_has(
    home: Home, asked: str, lacks: str
) -> None:
    home.write("run.yml", f"{TASK}resources:\n  {asked}\n")
    result = home.cli("apply", "-y", "-f", "run.yml")
    pattern = re.escape("error: No machine fits: local (") + r"(?P<all>[^)]*\(disk\)[^)]*(?:\([^)]*\))?)\): "
    assert (result.stdout, result.returncode) == ("", 1)
    size = r"[\d.]+[MGT]B"
    lacks = re.escape(lacks).replace(r"\{memory\}", size).replace(r"\{disk\}", size)
    lacks = lacks.replace(r"\{cpus\}", str(home.cpus())).replace(r"\{gpus\}", ".+")
    plan, mark, error = result.stderr.partition("error: ")
    assert "\nResources " in plan
    assert re.fullmatch(
        f"{pattern}{lacks}\nhint: Lower the requirements, or leave out the fields that do not fit\n", mark + error
    )
    assert home.runs() == []


def test_a_local_port_in_use_is_refused_before_anything_is_created(home: Home, used_port: int) -> None:
    home.write("run.yml", f"{TASK}ports: ['{used_port}:80']\n")
    result = home.cli("apply", "-y", "-f", "run.yml")
    said = (
        f"error: The local port {used_port} is in use on `127.0.0.1`\n"
        f"hint: Use another local port, such as `{used_port + 1}:80`, or any with `*:80`\n"
    )
    assert (result.stderr[result.stderr.index("error") :], result.stdout, result.returncode) == (said, "", 1)
    with pytest.raises(PortUsedError) as caught:
        home.client().runs.submit(Task(commands=["true"], ports=[f"{used_port}:80"]))
    assert f"error: {caught.value}\n" == said
    assert home.runs() == []


def test_without_a_terminal_and_without_yes_nothing_is_submitted(home: Home) -> None:
    home.write("run.yml", TASK)
    result = home.cli("apply", "-f", "run.yml", "-n", "one", input="y\n")
    assert result.stderr.endswith(
        'error: Without a terminal, dstack cannot ask "Submit the run `one`?": pass `-y` to answer yes\n'
    )
    assert (result.stdout, result.returncode) == ("", 1)
    assert home.runs() == []


@pytest.mark.parametrize("args", [("logs",), ("attach",), ("stop", "-y"), ("delete", "-y"), ("event", "--run")])
def test_a_run_that_is_not_there_is_named(home: Home, args: tuple[str, ...]) -> None:
    said = f"error: There is no run `ghost` in the project `{home.project}`\nhint: `dstack ps -a` shows all runs\n"
    assert_refused(home, *args, "ghost", said=said)


def test_an_active_run_keeps_its_name_and_its_history(home: Home) -> None:
    home.write("run.yml", f"type: task\nname: busy\ncommands: [cat {home.gate()}]\n")
    assert home.cli("apply", "-y", "-d", "-f", "run.yml").returncode == 0
    run = home.client().runs.get("busy")
    assert run is not None
    run.attach()  # it is running now, and the words below are certain
    run.detach()
    again = home.cli("apply", "-y", "-f", "run.yml")
    assert again.stderr.endswith(
        "\nThe run `busy` is already running with this configuration; `dstack attach --logs busy` follows it\n"
    )
    assert (again.stdout, again.returncode) == ("", 0)
    assert_refused(
        home,
        "delete",
        "-y",
        "busy",
        said="error: The run `busy` is running\nhint: Stop it first with `dstack stop busy`\n",
    )
    with pytest.raises(ResourceExistsError, match="The run `busy` is still running"):
        home.client().runs.submit(Task(commands=["true"]), run_name="busy")
    assert [one["id"] for one in home.runs()] == [run.id]
    home.open_gate()
    assert b"".join(run.logs()) == b"open\n"
    anew = home.client().runs.submit(Task(commands=["true"]), run_name="busy")
    assert [one["id"] for one in home.runs()] == [anew.id, run.id], "a finished run lends its name and is kept"


def test_the_api_says_which_machine_lacks_what(home: Home) -> None:
    with pytest.raises(NoCapacityError, match=rf"cpu: asked 1000, has {home.cpus()}\n") as caught:
        home.client().runs.submit(Task(commands=["true"], resources={"cpu": 1000}))
    assert caught.value.hint == "Lower the requirements, or leave out the fields that do not fit"
    assert home.client().runs.list(all=True) == []


def test_a_folder_whose_links_lead_out_is_refused(home: Home) -> None:
    folder = home.path / "code"
    folder.mkdir()
    (folder / "out").symlink_to("/etc/hostname")
    said = f"Links point out of the folder that is sent, to what the job would not have: `{folder / 'out'}`"
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        home.client().runs.submit(Task(commands=["true"]), repo=LocalRepo.from_dir(folder))
    assert home.client().runs.list(all=True) == []
