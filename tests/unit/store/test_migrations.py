"""Values that a migration derives are those that the version before showed."""

import importlib
from typing import Any

import pytest

from dstack.domain.births import ports_of
from dstack.spec.parse import configuration_of

REVISIONS = importlib.import_module("dstack.store.migrations.versions.0007_revisions")
TASK = {"type": "task", "commands": ["x"]}
SERVICE = {"type": "service", "commands": ["x"]}


@pytest.mark.parametrize(
    "configuration",
    [
        TASK,
        {**TASK, "ports": [80, "8000:81", "*:82", " 83 "]},
        {**SERVICE, "port": 8000},
        {**SERVICE, "port": "80:8001"},
        {"type": "dev-environment", "ide": "vscode", "ports": ["3000"]},
    ],
)
def test_ports_of_earlier_jobs_are_those_of_their_configuration(configuration: dict[str, Any]) -> None:
    written = {int(port): local for port, local in REVISIONS._ports_in(configuration).items()}
    assert written == ports_of(configuration_of(configuration))


@pytest.mark.parametrize(
    "configuration", [None, {}, {"ports": ["of a later version"]}, {"type": "service", "port": {}}]
)
def test_a_configuration_that_cannot_be_read_has_no_ports(configuration: Any) -> None:
    assert REVISIONS._ports_in(configuration) == {}
