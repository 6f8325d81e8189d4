"""The environment of a process, and what others see of it."""

import subprocess
import sys

PROGRAM = """
import os, subprocess
from dstack.kit.environ import conceal
conceal(["SECRET", "TOKEN", "UNSET"])
print(open("/proc/self/environ", "rb").read())
print(subprocess.run(["env"], capture_output=True).stdout)
print(os.environ["SECRET"], os.environ["TOKEN"])
"""


def test_concealed_variables_are_seen_by_this_program_alone() -> None:
    env = {"A": "first", "SECRET": "hidden=1", "B": "SECRET=no", "TOKEN": "", "C": "last"}
    said = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True).stdout
    block, children, own = said.splitlines()
    for seen in (block, children):
        assert "hidden" not in seen
        assert all(part in seen for part in ("A=first", "B=SECRET=no", "C=last"))
    assert own == "hidden=1 "
