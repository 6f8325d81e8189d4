"""How `dstack event` writes what has happened."""

import pytest
from msgspec import convert

from dstack.cli.commands.event import text_of
from dstack.protocol.views import EventView


@pytest.mark.parametrize(
    ("run_name", "message", "shown"),
    [
        ("train", "ada submitted train", "ada submitted train"),
        ("train", "run train is terminated (stopped by user)", "run train is terminated (stopped by user)"),
        ("train", "job is running", "train: job is running"),
        ("web", "web: replicas 2 → 3: 27.4 requests/s", "web: replicas 2 → 3: 27.4 requests/s"),
        (None, "instance local is busy", "instance local is busy"),
    ],
)
def test_event_names_its_run_once(run_name: str | None, message: str, shown: str) -> None:
    unknown = dict.fromkeys(("project", "run_id", "job_id", "instance_id", "status"))
    about = {"seq": 1, "at": "2030-01-01T00:00:00Z", "actor": "engine", "kind": "run.x", "message": message}
    event = convert({**unknown, **about, "run_name": run_name}, EventView)
    assert text_of(event) == f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  {shown}"
