"""What the command does with arguments and errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dstack import __version__
from dstack.cli.main import COMMANDS, UNLISTED, USUAL

from .conftest import Cli, Output


def test_the_version(cli: Cli) -> None:
    assert cli("--version") == f"exit 0\nstdout:\ndstack {__version__}\n"


def test_help_names_every_command(cli: Cli) -> None:
    text = cli("--help")
    assert text.startswith("exit 0\n") and all(f"\n  {name} " in text for name in COMMANDS if name not in UNLISTED)


def test_help_fits_a_small_terminal_and_names_old_commands_once(cli: Cli) -> None:
    lines = cli("--help").partition("stdout:\n")[2].splitlines()
    assert len(lines) < 24 and max(map(len, lines)) <= 80
    assert all(lines[-1].count(f"`{name}`") == 1 for name in UNLISTED)
    assert not [line for line in lines[:-1] if line.split()[:1] and line.split()[0] in UNLISTED]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    assert cli(command, "--help").startswith("exit 0\nstdout:\nusage: dstack")


def test_without_a_word_the_help_is_shown(cli: Cli) -> None:
    assert cli() == cli("--help")


def test_a_mistyped_command_is_answered_with_the_nearest(cli: Cli) -> None:
    usage = "exit 2\nstderr:\nusage: dstack [-h] [--project NAME] [--version] COMMAND ...\n"
    said = "dstack: error: there is no command `delte`; did you mean `delete`? `dstack --help` shows all\n"
    assert cli("delte", "logs") == usage + said
    assert cli("xyz") == usage + "dstack: error: there is no command `xyz`. `dstack --help` shows all\n"


@pytest.mark.parametrize(("word", "command"), [("rm", "delete"), ("status", "ps"), ("ssh", "attach"), ("kill", "stop")])
def test_usual_word_of_other_tools_is_answered_with_the_command(cli: Cli, word: str, command: str) -> None:
    assert f"there is no command `{word}`; did you mean `{command}`?" in cli(word, "one")


def test_usual_words_are_no_commands_and_name_commands() -> None:
    assert set(USUAL.values()) <= set(COMMANDS) and not set(USUAL) & set(COMMANDS)


def test_unknown_option_before_the_command_is_reported_instead_of_its_value(cli: Cli) -> None:
    assert "error: there is no option `-p`; did you mean `--project`? `" in cli("-p", "x", "ps")
    assert "error: there is no option `-p`; did you mean `--project`? `" in cli("--project", "a", "-p", "x", "ps")
    assert "error: there is no command `x`" in cli("--project", "a", "x", "-p")


@pytest.mark.parametrize("option", ["--project", "--file", "--gpu"])
def test_option_without_its_argument_is_answered_in_two_lines(cli: Cli, option: str) -> None:
    code, stream, usage, said = cli("apply", option).splitlines()
    assert (code, stream, usage) == ("exit 2", "stderr:", "usage: dstack apply [options] [FILE]")
    assert said.startswith("dstack apply: error: argument ") and said.endswith(f"{option}: expected one argument")


@pytest.mark.parametrize("word", ["fleet", "fleets", "volume", "gateway", "login"])
def test_planned_command_is_reported_as_not_there_yet(cli: Cli, word: str) -> None:
    said = f"dstack: error: `dstack {word}` is not in this version yet; until then, `"
    assert said in cli(word, "list") and cli(word).startswith("exit 2\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stop", "--abrt", "one"), "dstack stop: error: there is no option `--abrt`; did you mean `--abort`?"),
        (("apply", "--memry=2GB"), "dstack apply: error: there is no option `--memry`; did you mean `--memory`?"),
        (("secret", "list", "--jsn"), "dstack secret list: error: there is no option `--jsn`; did you mean `--json`?"),
        (("ps", "-z"), "dstack ps: error: there is no option `-z`. `dstack ps --help` shows all"),
        (("--prject=x", "ps"), "dstack: error: there is no option `--prject`; did you mean `--project`?"),
        (("ps", "train"), "dstack ps: error: unexpected argument `train`"),
        (
            ("exec", "one", "--jb", "1", "--", "ls"),
            "dstack exec: error: there is no option `--jb`; did you mean `--job`?",
        ),
    ],
)
def test_unknown_option_is_answered_with_usage_of_its_command(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    text = cli(*arguments)
    command = said.partition(":")[0]
    assert text.startswith(f"exit 2\nstderr:\nusage: {command} ") and said in text


def test_command_without_an_action_lists(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTACK_SERVER_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DSTACK_TOKEN", "s3cret")
    monkeypatch.setenv("DSTACK_PROJECT", "main")
    assert cli("project") == cli("project", "list") and cli("project").startswith("exit 0\n")
    assert cli("secret") == cli("secret", "list") and "No server answers" in cli("secret")


@pytest.mark.parametrize("arguments", [("nope",), ("ps", "--nope"), ("logs",), ("apply", "--spot", "--on-demand")])
def test_wrong_usage_exits_with_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    text = cli(*arguments)
    assert text.startswith("exit 2\nstderr:\nusage: dstack") and "error: " in text


def test_nobody_at_the_url_is_one_clear_message(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTACK_SERVER_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DSTACK_TOKEN", "s3cret")
    monkeypatch.setenv("DSTACK_PROJECT", "main")
    assert cli("ps") == (
        "exit 1\n"
        "stderr:\n"
        "error: No server answers at `http://127.0.0.1:1` ([Errno 111] Connection refused)\n"
        "hint: Start one with `dstack server`, or correct the URL in `~/.dstack/config.yml` or `DSTACK_SERVER_URL`\n"
    )


def test_a_damaged_configuration_is_one_clear_message(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".dstack").mkdir()
    path = tmp_path / ".dstack" / "config.yml"
    path.write_text("projects: [\n")
    assert cli("ps") == (
        "exit 1\n"
        "stderr:\n"
        f"error: {path}:2:1: expected the node content, but found '<stream end>'\n"
        "hint: Correct the file or remove it\n"
    )


def test_the_project_may_stand_before_or_after_the_command(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack" / "config.yml").write_text("projects: [{name: a, url: 'http://h', token: t, default: true}]")
    assert cli("--project", "x", "ps") == cli("ps", "--project", "x")
    assert "There is no project `x`" in cli("ps", "--project", "x")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("words", [("secret", "set", "X"), ("apply", "-y", "-f", "-")])
def test_what_stdin_has_that_is_no_text_is_told_and_not_shown(words: list[str], errors: str, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PYTHONIOENCODING": f"utf-8:{errors}", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "dstack.cli", *words]
    done = subprocess.run(command, input=b"s3cret\xff", env=env, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.search(rb" UTF-8 text|stdin:1:7: this is not YAML", done.stderr)
    assert b"s3cret" not in done.stderr and b"inside dstack" not in done.stderr


@pytest.mark.parametrize("since", ["999999w", "99999999999w", "9999-12-31T23:59:59-12:00", "yesterday"])
def test_a_time_that_is_none_is_told(cli: Cli, since: str) -> None:
    assert cli("logs", "one", "--since", since) == (
        "exit 1\n"
        "stderr:\n"
        f"error: `{since}` is neither a duration nor a time\n"
        "hint: Write `10m`, `2h`, `1d` or `2030-01-31T12:00`\n"
    )


def test_a_bug_is_a_sentence_and_a_traceback_only_on_demand(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: object) -> int:
        raise RuntimeError("oops")

    monkeypatch.setattr("dstack.cli.commands.ps.run", broken)
    assert cli("ps") == (
        "exit 1\n"
        "stderr:\n"
        "error: Something went wrong inside dstack: RuntimeError: oops\n"
        "hint: Set `DSTACK_DEBUG=1` to see where, and report it\n"
    )
    monkeypatch.setenv("DSTACK_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli("ps")


def test_ctrl_c_exits_with_130_and_says_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("dstack.cli.commands.ps.run", interrupted)
    assert cli("ps") == "exit 130\n"
    monkeypatch.setattr(Output, "isatty", lambda self: True)
    assert cli("ps") == "exit 130\nstderr:\n\n", "the terminal has written `^C` on its line"


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_reader_that_goes_away_is_no_error(size: int) -> None:
    code = f"""
import sys
from dstack.cli.commands import ps
from dstack.cli.main import main
ps.run = lambda arguments: sys.stdout.write("x" * {size}) and 0
sys.exit(main(["ps"]))
"""
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("ends", ["return 3", "raise DstackError('It is late')"])
def test_what_was_written_arrives_however_the_program_ends(ends: str) -> None:
    code = f"""
import sys
from dstack.cli.commands import ps
from dstack.cli.main import program
from dstack.errors import DstackError
def run(arguments):
    sys.stdout.write("written")
    {ends}
ps.run = run
sys.argv = ["dstack", "ps"]
sys.exit(program())
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == ((3, "written") if "3" in ends else (1, "written"))


def test_a_secrets_name_is_looked_at_before_its_value_is_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.cli.words.asked_secret", lambda question: pytest.fail(question))
    assert cli("secret", "set", "bad name") == (
        "exit 1\n"
        "stderr:\n"
        "error: `bad name` cannot be a secret's name\n"
        "hint: Use letters, digits, `-` and `_`, no digit first\n"
    )


@pytest.mark.parametrize("port", ["80000", "-1", "x", "\u0663", "99999999999999999999"])
def test_port_out_of_range_is_told_with_the_usage(cli: Cli, port: str) -> None:
    text = cli("server", f"--port={port}")
    assert text.startswith("exit 2\nstderr:\nusage: dstack server ")
    assert text.endswith(f"dstack server: error: argument --port: expected a port from 0 to 65535, found `{port}`\n")
