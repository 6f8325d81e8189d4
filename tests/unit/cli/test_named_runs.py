"""Commands about several runs do what can be done, and report each name that is unknown."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from dstack.api import Client, Run
from dstack.cli.commands.delete import question_about
from dstack.protocol.statuses import RunStatus
from tests.unit.cli.conftest import Cli

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
SUBMITTED = NOW - timedelta(days=3)


class Runs:
    """Two runs, and what was done with them."""

    def __init__(self, status: RunStatus) -> None:
        self.done: list[str] = []
        self.has_earlier = False
        """Whether a deleted run leaves an earlier one of its name."""
        self.known = {
            name: SimpleNamespace(
                id=f"id-{name}",
                name=name,
                status=status,
                view=SimpleNamespace(submitted_at=SUBMITTED),
                stop=lambda abort, name=name: self.done.append(name),
            )
            for name in ("train", "serve")
        }

    def get(self, name: str) -> SimpleNamespace | None:
        return self.known.get(name)

    def list(self) -> list[SimpleNamespace]:
        return list(self.known.values())

    def delete(self, run_id: str) -> None:
        self.done.append(run_id)
        if not self.has_earlier:
            del self.known[run_id.removeprefix("id-")]


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


@pytest.mark.parametrize("runs", [RunStatus.DONE], indirect=True)
def test_deleted_run_names_the_earlier_one_of_its_name(cli: Cli, runs: Runs) -> None:
    runs.has_earlier = True
    assert cli("delete", "-y", "serve") == ("exit 0\nstderr:\nserve: deleted; an earlier run of that name remains\n")


@pytest.mark.parametrize("runs", [RunStatus.DONE], indirect=True)
def test_question_about_a_deletion_has_the_time_of_each_run(runs: Runs) -> None:
    at = f"{SUBMITTED.astimezone():%Y-%m-%d %H:%M}"
    both = [cast(Run, one) for one in runs.list()]
    assert question_about(both[:1], NOW) == f"Delete `train`, submitted {at}, with its events and logs?"
    assert question_about(both, NOW) == (
        f"Delete `train`, submitted {at}, and `serve`, submitted {at}, with their events and logs?"
    )
