"""The environment of a process, what others see of it, and the way to programs that are not its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.kit.environ import foreign_path

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


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Python seems to be installed."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    return tmp_path


def test_a_virtual_environment_is_left_out_under_each_of_its_names(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    (prefix / "link").symlink_to("bin")
    monkeypatch.chdir(prefix)
    path = f"/a:{prefix}/bin:{prefix}/bin/:{prefix}/link:bin:{prefix}:/b"
    assert foreign_path(path) == f"/a:{prefix}:/b"


def test_a_python_of_the_whole_system_stays(prefix: Path) -> None:
    assert foreign_path(f"{prefix}/bin:/b") == f"{prefix}/bin:/b"


def test_of_condas_environments_all_but_the_base_are_left_out(prefix: Path) -> None:
    (prefix / "conda-meta").mkdir()
    assert foreign_path(f"{prefix}/bin:/b") == "/b"
    (prefix / "condabin").mkdir()
    assert foreign_path(f"{prefix}/bin:/b") == f"{prefix}/bin:/b"


def test_where_nothing_is_left_there_is_the_systems_path(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert foreign_path(f"{prefix}/bin") == os.defpath
