"""What is wrong is refused before anything is sent: one clear message, the exit code, and no server is started."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from dstack.api import Client, ConfigurationError, DstackError, ServerUnreachableError, Task

from .conftest import Cli

TASK = "type: task\ncommands: [echo hello]\n"
NOBODY = "http://127.0.0.1:9"
A_NAME = "expected a name of 2 to 41 lower-case letters, digits and `-`, beginning with a letter, found `Bad_Name`"


def assert_refused(cli: Cli, *args: str, said: str) -> None:
    """The command fails with exactly these words on stderr and none on stdout, and has started no server."""
    assert cli(*args).replace(str(Path.home()), "~") == f"exit 1\nstderr:\n{said}"
    assert not Path.home().joinpath(".dstack/server").exists()


FILES = {
    "a wrong type": (
        "type: task\ncommands: echo hello\n",
        "error: run.yml:2:1: expected a list, found the text `echo hello`; write `- echo hello`\n",
    ),
    "an unknown field": (
        "type: task\ncomands: [echo hello]\n",
        "error: run.yml:2:1: unknown field `comands`; did you mean `commands`?\n",
    ),
    "several mistakes at once": (
        f"{TASK}priority: 101\nresources:\n  memry: 1GB\n",
        "error: run.yml has 2 mistakes\nrun.yml:3:1: expected at most 100, found `101`\n"
        "run.yml:5:3: unknown field `memry`; did you mean `memory`?\n",
    ),
    "a bad name": (f"{TASK}name: Bad_Name\n", f"error: run.yml:3:1: {A_NAME}\n"),
    "a variable that is missing": (
        f"{TASK}env: [HF_TOKEN]\n",
        "error: The configuration passes on `HF_TOKEN`, which this environment does not have\n"
        "hint: `export HF_TOKEN=…` first, or write a value in `env`\n",
    ),
    "nothing": (
        "",
        "error: run.yml:1:1: expected a configuration: fields such as `type: task`, found an empty file\n",
    ),
    "what is no YAML": (
        "type: [task\n",
        "error: run.yml:1:7: this is not YAML: the bracket is not closed by `]`\n",
    ),
}


@pytest.mark.parametrize(("text", "said"), FILES.values(), ids=FILES)
def test_a_file_with_a_mistake_is_refused_before_any_server_is_asked(
    cli: Cli, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "run.yml").write_text(text)
    assert_refused(cli, "apply", "-y", "-f", "run.yml", said=said)


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
def test_an_argument_with_a_mistake_is_refused_too(cli: Cli, tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    (tmp_path / "run.yml").write_text(TASK)
    assert_refused(cli, "apply", "-y", *args, said=said)


@pytest.mark.parametrize("args", [("frobnicate",), ("logs",), ("apply", "--spot", "--on-demand"), ("ps", "--nope")])
def test_wrong_usage_shows_the_right_one_and_exits_with_2(cli: Cli, tmp_path: Path, args: tuple[str, ...]) -> None:
    usage = r"exit 2\nstderr:\nusage: dstack.*\ndstack[ a-z]*: error: .+\n$"
    assert re.match(usage, cli(*args), re.DOTALL)
    assert not (tmp_path / ".dstack/server").exists()


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
        "hint: Name one with `--project`, or choose the default with `dstack project set-default NAME`\n",
    ),
    "a URL that is none": (
        "projects: [{name: main, url: 'localhost', token: t, default: true}]\n",
        "error: ~/.dstack/config.yml: project `main`: `localhost` is not a URL\n"
        "hint: Write it like `http://127.0.0.1:3000`\n",
    ),
}


@pytest.mark.parametrize(("text", "said"), CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_config_file_is_named_with_what_is_wrong_in_it(
    cli: Cli, tmp_path: Path, text: str, said: str
) -> None:
    write_config(tmp_path, text)
    assert_refused(cli, "ps", said=said)
    with pytest.raises(ConfigurationError) as caught:
        Client.from_config()
    assert f"error: {caught.value}\n".replace(str(tmp_path), "~") == said


def write_config(home: Path, text: str) -> None:
    (home / ".dstack").mkdir()
    (home / ".dstack/config.yml").write_text(text)


def test_a_project_that_the_config_file_has_not_is_refused_with_those_it_has(cli: Cli, tmp_path: Path) -> None:
    write_config(tmp_path, f"projects: [{{name: main, url: '{NOBODY}', token: t, default: true}}]\n")
    said = (
        "error: There is no project `other` in `~/.dstack/config.yml`, which has `main`\n"
        "hint: Name one of those, or add it to the file\n"
    )
    assert_refused(cli, "ps", "--project", "other", said=said)


@pytest.mark.parametrize("args", [("ps",), ("apply", "-y", "-f", "run.yml"), ("stop", "-y", "any")])
def test_a_server_that_does_not_answer_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    (tmp_path / "run.yml").write_text(TASK)
    for name, value in {"SERVER_URL": NOBODY, "TOKEN": "t", "PROJECT": "main"}.items():
        monkeypatch.setenv(f"DSTACK_{name}", value)
    said = (
        "error: No server answers at `http://127.0.0.1:9` ([Errno 111] Connection refused)\n"
        "hint: Start one with `dstack server`, or correct the URL in `~/.dstack/config.yml` or `DSTACK_SERVER_URL`\n"
    )
    assert_refused(cli, *args, said=said)
    with closing(Client.from_config("main", NOBODY, "t")) as client, pytest.raises(ServerUnreachableError) as caught:
        client.runs.list()
    assert f"error: {caught.value}\n" == said


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
        "`working_dir`: expected an absolute path, or one inside the folder of the run's files, found `../up`",
    ),
    "a price of nothing": (
        {"max_price": 0},
        ConfigurationError,
        "`max_price`: expected more than 0, found `0`",
    ),
}


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize(("options", "kind", "said"), API.values(), ids=API)
def test_the_api_refuses_what_cannot_be(
    tmp_path: Path, options: dict[str, object], kind: type[DstackError], said: str
) -> None:
    with closing(Client.from_config()) as client, pytest.raises(kind) as caught:
        client.runs.submit(Task(commands=["true"]), **options)  # type: ignore[arg-type]
    assert str(caught.value) == said
    assert not (tmp_path / ".dstack/server").exists(), "no server was needed"
