"""The end of a server by `dstack server stop` and `restart`."""

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


def test_server_whose_file_has_a_mistake_is_not_stopped_by_a_restart(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running = Running(7, tmp_path, True, None, None, None, None, 0)
    restarted: list[Running] = []
    monkeypatch.setattr(_server_control, "find", lambda data_dir: running)
    monkeypatch.setattr(_server_control, "restart", restarted.append)
    file = tmp_path / "config.yml"
    file.write_text("backend: []\n")
    done = cli("server", "restart", "--data-dir", str(tmp_path))
    assert f"error: {file}:1:1: unknown field `backend`; did you mean `backends`?" in done
    assert restarted == []
    file.write_text("backends: []\n")
    assert cli("server", "restart", "--data-dir", str(tmp_path)).startswith("exit 0\n")
    assert restarted == [running]
