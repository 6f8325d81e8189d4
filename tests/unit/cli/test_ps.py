"""What `dstack ps` writes around its table."""

from types import SimpleNamespace

import pytest

from dstack.api import Client

from .conftest import Cli
from .test_following import RunView, job, view


def lists(monkeypatch: pytest.MonkeyPatch, *views: RunView) -> None:
    runs = SimpleNamespace(list=lambda all: [SimpleNamespace(view=one) for one in views])
    monkeypatch.setattr(Client, "from_config", lambda project_name: SimpleNamespace(runs=runs))


SAID = "stderr:\nNo run is active; the last one:\n"


def test_finished_run_in_place_of_active_ones_is_announced(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lists(monkeypatch, view("done"))
    assert cli("ps").endswith(SAID) and "\nhello " in cli("ps")
    assert SAID not in cli("ps", "-a") and SAID not in cli("ps", "--json")


def test_active_runs_are_shown_without_a_word(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lists(monkeypatch, view("running"))
    assert "stderr" not in cli("ps")


def test_verbose_rows_have_revisions_and_the_jobs_of_earlier_ones(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lists(monkeypatch, view("running", job(1, "failed", revision=1), job(2, revision=2), revision=3))
    header, *rows = cli("ps", "-v").splitlines()[2:]
    assert header.split()[:2] == ["NAME", "REVISION"]
    assert [row.split()[:5] for row in rows] == [
        ["hello", "3", "running", "now"],
        ["0/0", "attempt", "1", "1", "failed"],
        ["0/0", "attempt", "2", "2", "running"],
    ]
    assert "REVISION" not in cli("ps")


def test_revisions_of_a_server_that_has_none_are_left_out(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lists(monkeypatch, view("running", job()))
    assert [row.split()[:2] for row in cli("ps", "-v").splitlines()[3:]] == [["hello", "running"]]
