"""The script of a task, run by real shells."""

import subprocess
from pathlib import Path

import pytest

from dstack.domain.default_images import preparation_of
from dstack.spec.dev_environment import FOR_EVER, DevEnvironment
from dstack.spec.run import script_of
from dstack.spec.task import Task
from tests.patience import PATIENCE_S

CASES: dict[str, tuple[list[str], str, int]] = {
    "one after the other": (["echo a", "echo b"], "a\nb\n", 0),
    "the first failure ends it with its code": (["echo a", "(exit 7)", "echo b"], "a\n", 7),
    "an unknown command": (["no-such-program-here", "echo b"], "", 127),
    "an early end": (["echo a", "exit 0", "echo b"], "a\n", 0),
    "an early end with a code": (["exit 3", "echo b"], "", 3),
    "variables and the folder stay": (["A=1; cd /", 'echo "$A $PWD"'], "1 /\n", 0),
    "functions stay": (["f() { echo f; }", "f"], "f\n", 0),
    "in the background": (["sleep 0 &", "echo a", "wait"], "a\n", 0),
    "several lines": (["for i in 1 2; do\n  echo $i\ndone\n", "echo b"], "1\n2\nb\n", 0),
    "only the last of several lines counts": (["false\ntrue", "echo b"], "b\n", 0),
    "a here-document": (["cat <<EOF\na $((1 + 1))\nEOF", "echo b"], "a 2\nb\n", 0),
    "a comment at the end": (["echo a # comment", "# nothing but a comment", "echo b"], "a\nb\n", 0),
    "nothing at all": (["", "echo b"], "b\n", 0),
    "a backslash at the end": (["echo a \\", "echo b"], "a\nb\n", 0),
    "an escaped space at the end": (["printf '%s.' a\\ ", "echo b"], "a .b\n", 0),
    "a pipeline that fails": (["true | (exit 4)", "echo b"], "", 4),
    "a pipeline that ends well": (["false | cat", "echo b"], "b\n", 0),
    "a condition that does not hold": (["[ 1 = 2 ] && echo a", "echo b"], "", 1),
    "a condition with another way": (["[ 1 = 2 ] || echo a", "echo b"], "a\nb\n", 0),
    "a failure inside an if": (["if false; then echo a; fi", "echo b"], "b\n", 0),
    "quotes": (["""echo "it's" '$HOME'"""], "it's $HOME\n", 0),
    "a subshell that fails": (["(false; exit 5)", "echo b"], "", 5),
    "set -e by the user": (["set -e", "false; echo a", "echo b"], "", 1),
    "set -u by the user": (["set -u", "echo a"], "a\n", 0),
    "a program in place of the shell": (["exec echo a", "echo b"], "a\n", 0),
    "a status that was asked for": (["(exit 3) || code=$?", 'echo "$code"'], "3\n", 0),
    "no commands": ([], "", 0),
}


@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize(("commands", "printed", "code"), CASES.values(), ids=CASES)
def test_commands_run_until_the_first_that_fails(shell: str, commands: list[str], printed: str, code: int) -> None:
    script = script_of(commands)
    ended = subprocess.run([shell, "-c", script], stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert (ended.stdout, ended.returncode) == (printed, code)


def _programs(folder: Path, **scripts: str) -> dict[str, str]:
    """Return an environment whose programs are these scripts, before the system's own."""
    programs = folder / "bin"
    programs.mkdir()
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder)}


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize(("version", "asked"), [("1.96.0", "1.96.0"), ("a" * 40, f"commit:{'a' * 40}")])
def test_server_of_the_editor_is_there_in_the_version_that_was_asked_for(
    tmp_path: Path, shell: str, version: str, asked: str
) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server/product.json").write_text('{\n\t"version": "1.96.0",\n\t"commit": "0a1b2c3"\n}')
    curl = f'echo "$*" > {tmp_path}/url; tar -cz -C {tmp_path} server'
    workplace = DevEnvironment(ide="vscode", version=version, init=["echo ready"])
    script = workplace.script().replace(FOR_EVER, "wait")
    done = subprocess.run([shell, "-c", script], env=_programs(tmp_path, curl=curl), capture_output=True, text=True)
    assert done.returncode == 0 and "ready\n" in done.stdout
    assert f"[dstack: the server of VS Code {asked} is installed]\n" in done.stdout
    assert (tmp_path / ".vscode-server/bin/0a1b2c3/product.json").is_file()
    assert f"code.visualstudio.com/{asked}/server-linux-" in (tmp_path / "url").read_text()


def test_server_of_the_editor_that_cannot_be_downloaded_holds_up_nothing(tmp_path: Path) -> None:
    workplace = DevEnvironment(ide="vscode", version="1.96.0", init=["echo ready"])
    script = workplace.script().replace(FOR_EVER, "wait")
    env = _programs(tmp_path, curl="echo no network >&2; exit 6")
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "ready\n" in done.stdout
    assert "VS Code 1.96.0 cannot be downloaded; the editor installs its own]\n" in done.stdout
    assert list((tmp_path / ".vscode-server/bin").iterdir()) == []


@pytest.mark.parametrize(("fails", "code", "ran"), [("", 0, True), ("update", 100, False)])
def test_image_with_the_cuda_compiler_installs_python_or_the_job_fails(
    tmp_path: Path, fails: str, code: int, ran: bool
) -> None:
    task = Task(commands=["echo $DEBIAN_FRONTEND; echo run"], nvcc=True, python="3.11")
    script = preparation_of(task).replace("/opt/", f"{tmp_path}/") + task.script()
    log = f'echo "$(basename $0) $*" >> {tmp_path}/log'
    uv = tmp_path / "uv/bin"
    uv.mkdir(parents=True)
    env = _programs(
        tmp_path,
        **{"apt-get": f'{log}; [ "$2" != "{fails}" ] || exit 100'},
        python3=f"{log}; printf '#!/bin/sh\\n{log}\\n' | tee {uv}/pip > {uv}/uv; chmod +x {uv}/*",
    )
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "\nrun\n" if ran else "")
    lines = (tmp_path / "log").read_text()
    assert ("python 3.11" in lines) is ran, lines
