"""What `dstack ps` writes around its table."""

from types import SimpleNamespace

import pytest

from dstack.api import Client

from .conftest import Cli
from .test_following import RunView, view


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
