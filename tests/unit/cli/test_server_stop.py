"""What `dstack server stop` writes about this machine's agent."""

from pathlib import Path

import pytest

from dstack.agent.paths import Home, take_lock
from dstack.api import _server_control
from dstack.api._server_control import Running

from .conftest import Cli

SAID = "An idle agent stays on this machine until the next server ends it\n"


def stopped(cli: Cli, monkeypatch: pytest.MonkeyPatch, folder: Path, active_jobs: int) -> str:
    running = Running(7, folder, False, None, None, None, None, active_jobs)
    monkeypatch.setattr(_server_control, "find", lambda data_dir: running)
    monkeypatch.setattr(_server_control, "stop", lambda running: None)
    return cli("server", "stop")


def test_idle_agent_that_stays_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = tmp_path / "machines" / "1-key"
    machine.mkdir(parents=True)
    assert SAID not in stopped(cli, monkeypatch, tmp_path, 0)
    assert take_lock(Home(machine).lock) is not None  # the descriptor ends with the process
    assert stopped(cli, monkeypatch, tmp_path, 0).endswith(SAID)
    assert SAID not in stopped(cli, monkeypatch, tmp_path, 1), "its job continues, which is another line"
