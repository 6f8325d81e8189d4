"""Starting the agent of this machine, with programs that fail in its place."""

import stat
import sys
from pathlib import Path

import pytest

from dstack.errors import HostTrouble
from dstack.hosts.local import start_agent


def program(folder: Path, script: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_agent_that_fails_at_once_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agent.log").write_text("of an earlier start\n")
    fails = program(tmp_path, "printf 'Traceback\\n  line\\nSyntaxError: half\\n\\n' >&2; exit 1")
    monkeypatch.setattr(sys, "executable", str(fails))
    with pytest.raises(HostTrouble) as trouble:
        start_agent(tmp_path)
    assert trouble.value.message == f"its agent does not start: SyntaxError: half (`{tmp_path}/agent.log`)"


def test_agent_that_fails_without_a_word_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agent.log").write_text("of an earlier start\n")
    monkeypatch.setattr(sys, "executable", str(program(tmp_path, "exit 1")))
    with pytest.raises(HostTrouble, match="its agent does not start: it ended without a message"):
        start_agent(tmp_path)


def test_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(HostTrouble, match=f"cannot be started: No such file or directory: `{tmp_path}/gone`"):
        start_agent(tmp_path)


def test_folder_that_is_gone_is_no_trouble_of_the_agent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start_agent(tmp_path / "gone")
