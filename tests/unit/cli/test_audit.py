"""What `dstack audit` prints, and what its exit code says."""

import json

import pytest

from dstack.api import Client
from dstack.protocol.views import AuditView, MachineView
from tests.unit.cli.conftest import Cli


def machine(**fields: object) -> MachineView:
    values: dict[str, object] = {
        "backend": "aws",
        "machine_id": "i-0a1",
        "instance_id": "0-instance",
        "state": "claimed",
        "detail": "busy: train",
        "price": 32.77,
    }
    return MachineView.model_validate(values | fields)


ORPHAN = machine(
    backend="gcp",
    machine_id="vm-7",
    instance_id="7-instance",
    state="orphan",
    price=None,
    detail="seen since 12:00:00 UTC; it is ended at 12:02:00 UTC or soon after",
)

SHOWN = """\
exit 1
stdout:
BACKEND  MACHINE  INSTANCE    PRICE   STATE    DETAIL
gcp      vm-7     7-instance          orphan   seen since 12:00:00 UTC; it is ended at 12:02:00 UTC or soon after
aws      i-0a1    0-instance  $32.77  claimed  busy: train
2 machines: 1 claimed, 1 orphan; oci does not answer
"""


def says(monkeypatch: pytest.MonkeyPatch, *machines: MachineView, silent: tuple[str, ...] = ()) -> None:
    found = AuditView(machines=list(machines), silent=list(silent))
    monkeypatch.setattr(Client, "audit", lambda self: found)


def test_what_differs_comes_first_and_who_does_not_answer_last(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, machine(), ORPHAN, silent=("oci",))
    assert cli("audit") == SHOWN


@pytest.mark.parametrize(
    "machines, silent, code",
    [((machine(),), (), 0), ((), (), 0), ((ORPHAN,), (), 1), ((machine(),), ("oci",), 1)],
    ids=["all is claimed", "there is nothing", "one is an orphan", "a backend does not answer"],
)
def test_the_exit_code_says_whether_all_is_well(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    machines: tuple[MachineView, ...],
    silent: tuple[str, ...],
    code: int,
) -> None:
    says(monkeypatch, *machines, silent=silent)
    assert cli("audit").startswith(f"exit {code}\n")
    first, *_ = cli("audit", "--json").splitlines()
    assert first == f"exit {code}"


def test_as_json_it_is_the_view_itself(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, ORPHAN)
    shown = cli("audit", "--json").partition("stdout:\n")[2]
    assert json.loads(shown) == {"machines": [ORPHAN.model_dump()], "silent": []}
