"""What is a change of a run, and what is the same in other words."""

from typing import Any

import pytest

from dstack.domain.updates import changes
from dstack.spec.configurations import RunConfiguration
from dstack.spec.parse import configuration_of


def task(fields: dict[str, Any]) -> RunConfiguration:
    return configuration_of({"type": "task", "commands": ["x"], **fields})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"termination_idle_time": "1h"}, {"idle_duration": 3600}),
        ({"termination_idle_time": "5m"}, {}),
        ({"idle_duration": "5m"}, {}),
        ({"termination_policy": "dont-destroy"}, {"idle_duration": "off"}),
        ({"termination_policy": "dont-destroy", "termination_idle_time": "1h"}, {"termination_idle_time": "off"}),
        ({"termination_policy": "destroy-after-idle"}, {}),
        ({"pool_name": "default"}, {"fleets": ["default"]}),
        ({"retry_policy": True}, {"retry": {"duration": "1h"}}),
        ({"retry": False}, {}),
        ({"spot_policy": "on-demand", "nodes": 1, "startup_order": "any", "env": {}, "max_duration": "off"}, {}),
        ({"working_dir": "."}, {}),
        ({"working_dir": "./src/"}, {"working_dir": "src"}),
        ({"env": ["A=1"]}, {"env": {"A": "1"}}),
        ({"resources": {}}, {}),
        ({"resources": {"gpu": "A100:1", "shm_size": None}}, {"resources": {"gpu": "A100"}}),
        ({"name": "one"}, {"name": "two"}),
    ],
)
def test_the_same_in_other_words_is_no_change(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert changes(task(old), task(new)) == changes(task(new), task(old)) == []


@pytest.mark.parametrize(
    ("old", "new", "field", "values"),
    [
        ({"idle_duration": "off"}, {}, "idle_duration", ("off", None)),
        ({"termination_idle_time": "1h"}, {"idle_duration": "2h"}, "idle_duration", ("1h", "2h")),
        ({"pool_name": "ab"}, {"fleets": ["cd"]}, "fleets", (["ab"], ["cd"])),
        ({"fleets": ["default"]}, {}, "fleets", (["default"], None)),
        ({"retry_policy": True}, {}, "retry", ({}, None)),
        ({"resources": {"cpu": "2.."}}, {}, "resources", ({"cpu": "2.."}, None)),
        ({"resources": {"gpu": 1}}, {}, "resources", ({"gpu": {}}, None)),
        ({"resources": {"disk": None}}, {}, "resources", ({"disk": None}, None)),
    ],
)
def test_what_means_something_else_is_a_change_under_its_new_name(
    old: dict[str, Any], new: dict[str, Any], field: str, values: tuple[object, object]
) -> None:
    (change,) = changes(task(old), task(new))
    assert (change.field, (change.old, change.new)) == (field, values)


def test_another_kind_of_run_is_a_change() -> None:
    desk = configuration_of({"type": "dev-environment", "ide": "vscode"})
    assert [one.field for one in changes(task({}), desk)] == ["commands", "ide", "type"]
