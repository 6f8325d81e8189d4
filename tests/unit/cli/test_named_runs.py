"""Commands about several runs do what can be done, and report each name that is unknown."""

from types import SimpleNamespace

import pytest

from dstack.api import Client
from dstack.protocol.statuses import RunStatus
from tests.unit.cli.conftest import Cli


class Runs:
    """Two runs, and what was done with them."""

    def __init__(self, status: RunStatus) -> None:
        self.done: list[str] = []
        self.known = {
            name: SimpleNamespace(
                id=f"id-{name}", name=name, status=status, stop=lambda abort, name=name: self.done.append(name)
            )
            for name in ("train", "serve")
        }

    def get(self, name: str) -> SimpleNamespace | None:
        return self.known.get(name)

    def list(self) -> list[SimpleNamespace]:
        return list(self.known.values())

    def delete(self, run_id: str) -> None:
        self.done.append(run_id)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Runs:
    found = Runs(request.param)
    client = SimpleNamespace(runs=found, project="main")
    monkeypatch.setattr(Client, "from_config", lambda project_name: client)
    return found


UNKNOWN = (
    "error: There is no run `trian` in the project `main`; did you mean `train`?\nhint: `dstack ps -a` shows all runs\n"
)


@pytest.mark.parametrize("runs", [RunStatus.RUNNING], indirect=True)
def test_unknown_run_is_reported_and_the_others_are_stopped(cli: Cli, runs: Runs) -> None:
    said = cli("stop", "-y", "trian", "serve", "train", "serve")
    assert said == f"exit 1\nstderr:\n{UNKNOWN}serve: stopping\ntrain: stopping\n"
    assert runs.done == ["serve", "train"]


@pytest.mark.parametrize("runs", [RunStatus.DONE], indirect=True)
def test_unknown_run_is_reported_and_the_others_are_deleted(cli: Cli, runs: Runs) -> None:
    assert cli("delete", "-y", "serve", "trian") == f"exit 1\nstderr:\n{UNKNOWN}serve: deleted\n"
    assert runs.done == ["id-serve"]
    assert cli("delete", "-y", "trian") == f"exit 1\nstderr:\n{UNKNOWN}"
