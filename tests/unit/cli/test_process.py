"""The command's streams, folders and signals: what the system refuses is one plain sentence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.cli import process
from dstack.cli.main import main

TASK = "type: task\nimage: Caf\u00e9\ncommands: [x]\n"
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(
    tmp_path: Path, *words: str, redirect: str = "", input: bytes = b"", env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run `dstack WORDS` in a shell that redirects its streams."""
    around = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    line = f'"$0" -m dstack.cli "$@" {redirect}'
    return subprocess.run(
        ["sh", "-c", line, sys.executable, *words],
        cwd=tmp_path,
        env=around | (env or {}),
        input=input,
        capture_output=True,
    )


def test_output_that_the_system_does_not_take_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "project", "list", "--json", redirect="> /dev/full")
    assert (done.returncode, done.stderr.decode()) == (
        1,
        "error: The output cannot be written: No space left on device\n"
        "hint: Free disk space, or write to another file\n",
    )


@pytest.mark.parametrize("redirect", ["2> /dev/full", "2>&-", "<&- 2>&-"])
def test_command_goes_on_where_nobody_hears_its_messages(tmp_path: Path, redirect: str) -> None:
    assert run(tmp_path, "project", "list", redirect=redirect).returncode == 0


def test_closed_output_is_no_error(tmp_path: Path) -> None:
    done = run(tmp_path, "project", "list", "--json", redirect=">&-")
    assert (done.returncode, done.stderr) == (0, b"")


def test_configuration_on_stdin_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "run.yml").write_text(TASK, "utf-8")
    of_file = run(tmp_path, "apply", "-f", "run.yml", env=PLAIN)
    of_stdin = run(tmp_path, "apply", "-f", "-", input=TASK.encode(), env=PLAIN)
    assert of_stdin.stderr.replace(b"stdin:", b"run.yml:") == of_file.stderr
    assert b"run.yml:2:1: expected an image" in of_file.stderr


def test_text_that_the_terminal_cannot_show_is_no_error(tmp_path: Path) -> None:
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack" / "config.yml").write_text(
        "projects: [{name: caf\u00e9, url: 'http://a', token: t}]", "utf-8"
    )
    done = run(tmp_path, "project", "list", env={"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0 and b"caf\\xe9" in done.stdout


def test_folder_that_was_deleted_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    line = 'cd here && rmdir ../here && exec "$0" -m dstack.cli init'
    env = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", line, sys.executable], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "error: The current folder no longer exists\nhint: Change into another folder\n",
    )


@pytest.mark.parametrize("words", [("ps",), ("server", "status"), ("project", "add", "--offline", "--name", "a")])
def test_home_that_is_no_folder_is_one_sentence(tmp_path: Path, words: tuple[str, ...]) -> None:
    options = ("--url", "http://a", "--token", "t") if words[0] == "project" else ()
    done = run(tmp_path, *words, *options, env={"HOME": "/dev/null"})
    assert done.returncode == 1 and b"error: " in done.stderr and b"/dev/null/.dstack" in done.stderr
    assert b"inside dstack" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/a"), "`/a` cannot be used: Permission denied"),
        (OSError(5, "Input/output error"), "The system refused an operation of this command: Input/output error"),
    ],
)
def test_refusal_of_the_system_names_the_file_and_why(error: OSError, said: str) -> None:
    assert process.refusal_of(error).message == said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_command_as_an_exception_does(number: signal.Signals) -> None:
    code = f"""
import os, signal, sys
from dstack.cli.commands import ps
from dstack.cli.main import main
def run(arguments):
    try:
        os.kill(os.getpid(), {number})
        signal.pause()
    finally:
        os.kill(os.getpid(), {number})  # another one, such as a shell's beside the terminal's
        print("closed")
ps.run = run
sys.exit(main(["ps"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "closed\n", "")


def test_signal_that_the_starter_ignores_stays_ignored() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    program = f"""
import sys
from dstack.cli.commands import ps
from dstack.cli.main import main
ps.run = lambda arguments: exec({code!r}) or 0
sys.exit(main(["ps"]))
"""
    done = subprocess.run(["nohup", sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_command_leaves_the_signals_of_its_process_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.cli.commands.ps.run", lambda arguments: 0)
    before = [signal.getsignal(number) for number in process.ENDING]
    assert main(["ps"]) == 0
    assert [signal.getsignal(number) for number in process.ENDING] == before
