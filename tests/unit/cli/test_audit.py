"""What `dstack audit` prints, and what its exit code says."""

import json
from datetime import UTC, datetime

import pytest
from msgspec import convert
from msgspec.structs import asdict

from dstack.api import Client
from dstack.cli.commands.audit import rows_of, table_of
from dstack.protocol.backends import AuditView, MachineView
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
    return convert(values | fields, MachineView)


ORPHAN = machine(
    backend="gcp",
    machine_id="vm-7",
    instance_id="7-instance",
    state="orphan",
    price=None,
    detail="seen since 2030-01-01 12:00:00 UTC; it is ended at 2030-01-01 12:02:00 UTC or soon after",
)

since, end = (f"{datetime(2030, 1, 1, 12, minute, tzinfo=UTC).astimezone():%Y-%m-%d %H:%M}" for minute in (0, 2))
SHOWN = f"""\
exit 1
stdout:
BACKEND  MACHINE  INSTANCE    PRICE   STATE    DETAIL
gcp      vm-7     7-instance          orphan   seen since {since}; it is ended at {end} or soon after
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
    assert json.loads(shown) == {"machines": [asdict(ORPHAN)], "silent": []}


def test_on_a_terminal_long_names_are_shortened_to_what_tells_them_apart() -> None:
    name = "01a21594-0000-7000-8000-123456789abc"
    one = machine(machine_id=f"/home/me/.dstack/server/machines/{name}", instance_id=name)
    found = AuditView(machines=[one], silent=[])
    assert [row[1:3] for row in rows_of(found, is_short=True)] == [("…123456789abc",) * 2]
    assert [row[1:3] for row in rows_of(found)] == [(one.machine_id, name)]
    assert "INSTANCE" not in table_of(found, is_short=True) and "INSTANCE" in table_of(found, is_short=False)
    assert rows_of(AuditView(machines=[machine()], silent=[]), is_short=True)[0][1] == "i-0a1"
