"""The hint about a run's files, where a run without them fails on a missing file."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dstack.api import RunPlan
from dstack.cli import clients, words
from dstack.cli.files import left_behind, named_file
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_following import AT, StandIn, job, view

HINT = "The run was sent without files. Run `dstack init` in a folder to send its files with each run"
MISSING = b"cat: main.txt: No such file or directory\n"


@pytest.fixture(autouse=True)
def output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the output that a command would write to a file descriptor."""
    monkeypatch.setattr(words, "show_bytes", list)


class Failed(StandIn):
    """A run that has failed, and its output."""

    def __init__(self, printed: bytes, spec: dict[str, Any]) -> None:
        one = job(status="failed", exit_code=1, finished_at=AT)
        super().__init__(view("failed", one, finished_at=AT, spec=spec), logs=(printed,))

    def logs(self, **options: Any) -> Iterator[bytes]:
        yield self.printed[0]


@pytest.mark.parametrize("command", [("attach", "--logs"), ("attach",), ("logs",)])
@pytest.mark.parametrize(
    ("printed", "spec", "is_hinted"),
    [
        (MISSING, {"configuration": {}}, True),
        (b"all is well\n", {"configuration": {}}, False),
        (MISSING, {"configuration": {}, "repo": {"kind": "local"}}, False),
    ],
    ids=["a file is missing", "another reason", "the run has files"],
)
def test_run_without_files_that_fails_on_a_missing_one_gets_a_hint(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    printed: bytes,
    spec: dict[str, Any],
    is_hinted: bool,
) -> None:
    monkeypatch.setattr(clients, "client_of", lambda arguments: None)
    monkeypatch.setattr(clients, "get_run", lambda client, name: Failed(printed, spec))
    assert (HINT in cli(*command, "hello")) is is_hinted


def test_the_agents_own_log_gets_no_hint(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "client_of", lambda arguments: None)
    monkeypatch.setattr(clients, "get_run", lambda client, name: Failed(MISSING, {"configuration": {}}))
    assert HINT not in cli("logs", "--diagnose", "hello")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("python3 train.py", "train.py"),
        ("cd x && bash 'train.py'>log", "train.py"),
        ("python3 /train.py", None),
        ("python3 ../train.py", None),
        ("python3 train.pyc --train.py", None),
        ("echo done", None),
    ],
)
def test_command_names_a_file_of_this_folder(command: str, named: str | None) -> None:
    assert named_file(["true", command], {"train.py", "/train.py", "../train.py", "--train.py"}.__contains__) == named


@pytest.mark.parametrize(("repo", "is_warned"), [(None, True), (object(), False)], ids=["no files", "the folder"])
def test_file_that_stays_behind_is_named_before_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: object, is_warned: bool
) -> None:
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    request = SimpleNamespace(configuration={"type": "task", "commands": [f"echo {'x' * 300}", "python3 train.py"]})
    plan = SimpleNamespace(repo=repo, draft=SimpleNamespace(request=request, files=()))
    expected = "`train.py` is here, and this folder's files are not sent: run `dstack init` first"
    assert left_behind(cast(RunPlan, plan)) == (expected if is_warned else None)
