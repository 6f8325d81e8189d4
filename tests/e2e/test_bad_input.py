"""Whatever is wrong, one clear message says so, the exit code too, and nothing was created."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from dstack.api import (
    Client,
    ConfigurationError,
    DstackError,
    LocalRepo,
    NoCapacityError,
    PortUsedError,
    ResourceExistsError,
    ServerUnreachableError,
    Task,
    UnauthorizedError,
)
from tests.e2e.home import Home

TASK = "type: task\ncommands: [echo hello]\n"
NOBODY = "http://127.0.0.1:9"
A_NAME = "expected a name of 2 to 41 lower-case letters, digits and `-`, beginning with a letter, found `Bad_Name`"
CORRECT = "hint: Correct the file and try again\n"


def assert_refused(home: Home, *args: str, said: str, code: int = 1) -> None:
    """The command fails with exactly these words on stderr and none on stdout."""
    result = home.cli(*args, input="")
    said_here = result.stderr.replace(str(home.path), "~")
    assert (said_here, result.stdout, result.returncode) == (said, "", code)


@pytest.fixture
def used_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


FILES = {
    "a wrong type": (
        "type: task\ncommands: echo hello\n",
        f"error: run.yml:2:1: expected a list, found the text `echo hello`\n{CORRECT}",
    ),
    "an unknown field": (
        "type: task\ncomands: [echo hello]\n",
        f"error: run.yml:2:1: unknown field `comands`; did you mean `commands`?\n{CORRECT}",
    ),
    "several mistakes at once": (
        f"{TASK}priority: 101\nresources:\n  memry: 1GB\n",
        "error: run.yml:3:1: expected at most 100, found `101`\n"
        f"run.yml:5:3: unknown field `memry`; did you mean `memory`?\n{CORRECT}",
    ),
    "a bad name": (f"{TASK}name: Bad_Name\n", f"error: run.yml:3:1: {A_NAME}\n{CORRECT}"),
    "a variable that is missing": (
        f"{TASK}env: [HF_TOKEN]\n",
        "error: The configuration passes on `HF_TOKEN`, which this environment does not have\n"
        "hint: `export HF_TOKEN=…` first, or write a value in `env`\n",
    ),
    "nothing": (
        "",
        f"error: run.yml:1:1: expected a configuration: fields such as `type: task`, found an empty file\n{CORRECT}",
    ),
    "what is no YAML": (
        "type: [task\n",
        f"error: run.yml:2:1: this is no YAML: expected ',' or ']', but got '<stream end>'\n{CORRECT}",
    ),
}


@pytest.mark.parametrize(("text", "said"), FILES.values(), ids=FILES)
def test_a_file_with_a_mistake_is_refused_before_any_server_is_asked(home: Home, text: str, said: str) -> None:
    home.write("run.yml", text)
    assert_refused(home, "apply", "-y", "-f", "run.yml", said=said)
    assert not home.data.exists(), "no server was needed"


ARGUMENTS = {
    "a missing file": (
        ("-f", "none.yml"),
        "error: There is no file `none.yml`\nhint: Name the configuration with `-f FILE`; `-f -` reads it from stdin\n",
    ),
    "a bad name": (
        ("-f", "run.yml", "-n", "Bad_Name"),
        f"error: `Bad_Name` cannot be a run's name: {A_NAME}\nhint: Try a name such as `train-1`\n",
    ),
    "a range that is none": (
        ("-f", "run.yml", "--cpu", "many"),
        "error: `resources.cpu`: expected a whole number or a range such as `2..8`, found `many`\n",
    ),
    "a missing folder": (
        ("-f", "run.yml", "--repo", "none"),
        "error: There is no folder `none`\nhint: Name a folder that exists\n",
    ),
    "a variable that is missing": (
        ("-f", "run.yml", "-e", "HF_TOKEN"),
        "error: The configuration passes on `HF_TOKEN`, which this environment does not have\n"
        "hint: `export HF_TOKEN=…` first, or write a value in `env`\n",
    ),
}


@pytest.mark.parametrize(("args", "said"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_an_argument_with_a_mistake_is_refused_too(home: Home, args: tuple[str, ...], said: str) -> None:
    home.write("run.yml", TASK)
    assert_refused(home, "apply", "-y", *args, said=said)
    assert not home.data.exists(), "no server was needed"


@pytest.mark.parametrize("args", [("frobnicate",), ("logs",), ("apply", "--spot", "--on-demand"), ("ps", "--nope")])
def test_wrong_usage_shows_the_right_one_and_exits_with_2(home: Home, args: tuple[str, ...]) -> None:
    result = home.cli(*args)
    assert (result.stdout, result.returncode) == ("", 2)
    assert re.match(r"usage: dstack.*\ndstack[ a-z]*: error: .+\n$", result.stderr, re.DOTALL)
    assert not home.data.exists()


CONFIGS = {
    "no YAML": (
        "projects: [\n",
        "error: ~/.dstack/config.yml:2:1: expected the node content, but found '<stream end>'\n"
        "hint: Correct the file or remove it\n",
    ),
    "another shape": (
        "- main\n",
        "error: ~/.dstack/config.yml: expected a mapping with a list of `projects`\n"
        "hint: A project is written as `- {name: main, url: http://127.0.0.1:3000, token: …, default: true}`\n",
    ),
    "a project without token": (
        f"projects: [{{name: main, url: '{NOBODY}'}}]\n",
        "error: ~/.dstack/config.yml: project `main` has no `token`\n"
        "hint: A project is written as `- {name: main, url: http://127.0.0.1:3000, token: …, default: true}`\n",
    ),
    "no default": (
        f"projects: [{{name: main, url: '{NOBODY}', token: t}}, {{name: other, url: '{NOBODY}', token: t}}]\n",
        "error: No project is marked as default in `~/.dstack/config.yml`, which has `main`, `other`\n"
        "hint: Name a project, or mark one with `default: true`\n",
    ),
    "a URL that is none": (
        "projects: [{name: main, url: 'localhost', token: t, default: true}]\n",
        "error: ~/.dstack/config.yml: project `main`: `localhost` is not a URL\n"
        "hint: Write it like `http://127.0.0.1:3000`\n",
    ),
}


@pytest.mark.parametrize(("text", "said"), CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_config_file_is_named_with_what_is_wrong_in_it(home: Home, text: str, said: str) -> None:
    home.write(".dstack/config.yml", text)
    assert_refused(home, "ps", said=said)
    with pytest.raises(ConfigurationError) as caught:
        Client.from_config()
    assert f"error: {caught.value}\n".replace(str(home.path), "~") == said
    assert not home.data.exists(), "no embedded server takes the place of a configured one"


def test_a_project_that_the_config_file_has_not_is_refused_with_those_it_has(home: Home) -> None:
    home.write(".dstack/config.yml", f"projects: [{{name: main, url: '{NOBODY}', token: t, default: true}}]\n")
    said = (
        "error: There is no project `other` in `~/.dstack/config.yml`, which has `main`\n"
        "hint: Name one of those, or add it to the file\n"
    )
    assert_refused(home, "ps", "--project", "other", said=said)


def test_a_project_that_the_server_has_not_is_refused(home: Home) -> None:
    said = "error: There is no project `other`\nhint: Check `project` in `~/.dstack/config.yml` or `DSTACK_PROJECT`\n"
    assert_refused(home, "ps", "--project", "other", said=said)


def test_a_server_that_is_not_there_is_named(home: Home) -> None:
    home.write("run.yml", TASK)
    home.env |= {"DSTACK_SERVER_URL": NOBODY, "DSTACK_TOKEN": "t", "DSTACK_PROJECT": "main"}
    said = (
        "error: No server answers at `http://127.0.0.1:9` ([Errno 111] Connection refused)\n"
        "hint: Start one with `dstack server`, or correct the URL in `~/.dstack/config.yml` or `DSTACK_SERVER_URL`\n"
    )
    for args in (("ps",), ("apply", "-y", "-f", "run.yml"), ("stop", "-y", "any")):
        assert_refused(home, *args, said=said)
    client = Client.from_config("main", NOBODY, "t")
    with closing(client), pytest.raises(ServerUnreachableError) as caught:
        client.runs.list()
    assert f"error: {caught.value}\n" == said
    assert not home.data.exists(), "no embedded server takes the place of a configured one"


def test_a_wrong_token_is_refused(home: Home) -> None:
    assert home.runs() == []
    url = home.server_url()
    home.env |= {"DSTACK_SERVER_URL": url, "DSTACK_TOKEN": "wrong", "DSTACK_PROJECT": "main"}
    said = (
        "error: The server does not know this token\nhint: Check `token` in `~/.dstack/config.yml` or `DSTACK_TOKEN`\n"
    )
    assert_refused(home, "ps", said=said)
    client = Client.from_config("main", url, "wrong")
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
    assert re.fullmatch(f"{pattern}{lacks}\nhint: Ask for less, or allow other backends\n", result.stderr)
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
        "error: There is no terminal to ask: Submit the run `one`?\nhint: Pass `-y` to answer yes beforehand\n"
    )
    assert (result.stdout, result.returncode) == ("", 1)
    assert home.runs() == []


@pytest.mark.parametrize("args", [("logs",), ("attach",), ("stop", "-y"), ("delete", "-y"), ("event", "--run")])
def test_a_run_that_is_not_there_is_named(home: Home, args: tuple[str, ...]) -> None:
    said = "error: There is no run `ghost` in the project `main`\nhint: `dstack ps -a` shows all runs\n"
    assert_refused(home, *args, "ghost", said=said)


def test_an_active_run_keeps_its_name_and_its_history(home: Home) -> None:
    home.write("run.yml", f"type: task\nname: busy\ncommands: [cat {home.gate()}]\n")
    assert home.cli("apply", "-y", "-d", "-f", "run.yml").returncode == 0
    run = home.client().runs.get("busy")
    assert run is not None
    run.attach()  # it is running now, and the words below are certain
    run.detach()
    again = home.cli("apply", "-y", "-f", "run.yml")
    assert again.stderr.endswith("\nThe run `busy` is running already, just as configured\n")
    assert (again.stdout, again.returncode) == ("", 0)
    assert_refused(
        home, "delete", "-y", "busy", said="error: The run `busy` is running\nhint: First: `dstack stop busy`\n"
    )
    with pytest.raises(ResourceExistsError, match="The run `busy` is still running"):
        home.client().runs.submit(Task(commands=["true"]), run_name="busy")
    assert [one["id"] for one in home.runs()] == [run.id]
    home.open_gate()
    assert b"".join(run.logs()) == b"open\n"
    anew = home.client().runs.submit(Task(commands=["true"]), run_name="busy")
    assert [one["id"] for one in home.runs()] == [anew.id, run.id], "a finished run lends its name and is kept"


API = {
    "a bad name": (
        {"run_name": "Bad_Name"},
        ConfigurationError,
        f"`Bad_Name` cannot be a run's name: {A_NAME}\nhint: Try a name such as `train-1`",
    ),
    "a policy that is none": (
        {"spot_policy": "spott"},
        ConfigurationError,
        "`spot_policy`: expected one of `spot`, `on-demand` or `auto`, found the text `spott`; did you mean `spot`?",
    ),
    "a working folder outside": (
        {"working_dir": "../up"},
        ConfigurationError,
        "`working_dir`: expected a path inside the folder of the run's files, found `../up`",
    ),
    "a price of nothing": (
        {"max_price": 0},
        ConfigurationError,
        "`max_price`: expected more than 0, found `0`",
    ),
}


@pytest.mark.parametrize(("options", "kind", "said"), API.values(), ids=API)
def test_the_api_refuses_what_cannot_be(
    home: Home, options: dict[str, object], kind: type[DstackError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        home.client().runs.submit(Task(commands=["true"]), **options)  # type: ignore[arg-type]
    assert str(caught.value) == said
    assert not home.data.exists(), "no server was needed"


def test_the_api_says_which_machine_lacks_what(home: Home) -> None:
    with pytest.raises(NoCapacityError, match=rf"cpu: asked 1000, has {home.cpus()}\n") as caught:
        home.client().runs.submit(Task(commands=["true"], resources={"cpu": 1000}))
    assert caught.value.hint == "Ask for less, or add a backend that has it"
    assert home.client().runs.list(all=True) == []


def test_a_folder_whose_links_lead_out_is_refused(home: Home) -> None:
    folder = home.path / "code"
    folder.mkdir()
    (folder / "out").symlink_to("/etc/hostname")
    said = f"Links point out of the folder that is sent, to what the job would not have: `{folder / 'out'}`"
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        home.client().runs.submit(Task(commands=["true"]), repo=LocalRepo.from_dir(folder))
    assert home.client().runs.list(all=True) == []
