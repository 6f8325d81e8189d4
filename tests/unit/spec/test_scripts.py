"""The script of a task, run by real shells."""

import subprocess

import pytest

from dstack.spec.run import script_of
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
