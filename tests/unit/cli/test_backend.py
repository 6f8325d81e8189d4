"""`dstack backend`: files that are no backends are refused, and a forced deletion names the machines that may exist."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dstack.api._backends import Backend
from dstack.cli import clients, words
from dstack.cli.commands import backend
from dstack.cli.main import main
from dstack.protocol.backends import BackendRemovalView

from .conftest import Cli

TITLE = "gcp small in eu: machine i-1 at 10.0.0.7, instance 0190f3a0 (terminating)"

FIELDS = "expected the fields of one backend, such as `type: aws`"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"{FIELDS}, found an empty file"),
        ("- type: aws\n", f"{FIELDS}, found a list"),
        ("aws\n", f"{FIELDS}, found `aws`"),
        ("type: aws\ntype: gcp\n", "the field `type` is written twice"),
    ],
)
def test_file_that_is_no_backend_is_refused_with_its_place(cli: Cli, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "aws.yml").write_text(text)
    done = cli("backend", "add", "aws.yml")
    assert done.startswith("exit 1\nstderr:\nerror: aws.yml:") and said in done
    assert not (tmp_path / ".dstack" / "server").exists()


def test_missing_file_is_refused_with_its_expected_contents(cli: Cli) -> None:
    done = cli("backend", "add", "aws.yml")
    assert "error: There is no file `aws.yml`\nhint: Write the backend's `type` and `creds` into it" in done


def test_options_that_choose_machines_are_explained(cli: Cli) -> None:
    shown = " ".join(cli("offer", "--help").split())
    for text in (
        "-b NAME, --backend NAME a backend: its type, such as `aws`, or its name; may be repeated",
        "a region of a backend;",
    ):
        assert text in shown


class Backends:
    """Those of a project, with one that has 102 machines."""

    def __init__(self) -> None:
        self.deleted: list[tuple[object, ...]] = []

    def list(self, for_all: bool) -> list[Backend]:
        return [Backend("gcp", is_silent=True, machines=102, machine_titles=(TITLE,) * 100)]

    def delete(self, *arguments: object) -> BackendRemovalView:
        self.deleted.append(arguments)
        return BackendRemovalView(name="gcp", removed=True, given_up=[TITLE])


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    found = Backends()
    monkeypatch.setattr(clients, "client_of", lambda arguments: SimpleNamespace(backends=found))
    return found


def test_forced_deletion_names_the_machines_before_it_asks(
    backends: Backends, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def refuse(question: str, *, if_not: str = "") -> bool:
        asked.append(capsys.readouterr().err + question)
        return False

    monkeypatch.setattr(words, "confirmed", refuse)
    assert main(["backend", "delete", "gcp", "--force"]) == 1
    assert backends.deleted == []
    (shown,) = asked
    assert "102 machines of `gcp` are not confirmed as terminated" in shown
    assert shown.count(TITLE) == 100 and "and 2 more" in shown and backend.LOOK in shown
    assert shown.endswith("Delete the backend `gcp` all the same?")


def test_forced_deletion_names_what_was_given_up(backends: Backends, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backend", "delete", "gcp", "--force", "-y", "--json"]) == 0
    assert backends.deleted == [("gcp", False, False, True)]
    shown = capsys.readouterr()
    assert TITLE in shown.err and "were given up, and not confirmed as terminated" in shown.err
    assert json.loads(shown.out)["given_up"] == [TITLE]


def test_deletion_is_either_drained_or_forced(cli: Cli) -> None:
    assert "not allowed with argument" in cli("backend", "delete", "gcp", "--force", "--drain")
