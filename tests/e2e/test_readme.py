"""The README's first task and its program in Python, as a new user runs them."""

import re
import sys

import pytest

from tests.architecture.sources import ROOT
from tests.e2e.home import Home

pytestmark = pytest.mark.server("shared")

README = (ROOT / "README.md").read_text(encoding="utf-8")


def first(language: str, part: str) -> str:
    """Return the first block of code of a language that has this part."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if part in text)


def test_first_task_of_the_readme_runs(home: Home) -> None:
    home.write("train.py", first("python", "epoch"))
    home.write("train.dstack.yml", first("yaml", "name: train\n"))
    assert home.cli("init").returncode == 0
    done = home.cli("apply", "-f", "train.dstack.yml", "-y")
    assert (done.returncode, done.stdout) == (0, "epoch 1: loss 1.00\nepoch 2: loss 0.50\nepoch 3: loss 0.33\n"), done


def test_program_of_the_readme_prints_the_log(home: Home) -> None:
    home.write("hello.py", first("python", "Client"))
    done = home.run_program(sys.executable, "hello.py")
    assert (done.returncode, done.stdout) == (0, "line 1\nline 2\nline 3\n"), done
