"""Whatever is written, it is a configuration or a clear refusal; and a configuration survives its JSON."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dstack.errors import ConfigurationError
from dstack.kit.ranges import Range
from dstack.kit.units import Memory
from dstack.spec.base import Spec
from dstack.spec.configurations import Configuration
from dstack.spec.parse import configuration_of, parse_configuration, to_mapping
from dstack.spec.profile import Profile
from dstack.spec.resources import GPU, Disk, Resources
from dstack.spec.service import Service
from dstack.spec.task import Task
from tests.unit.spec.making import TASK_FIELDS

EXAMPLE = """\
# A configuration with something of everything
type: task
name: train-1
python: 3.10
env: &env
  - HF_TOKEN
  - EPOCHS=3
commands:
  - pip install -r requirements.txt
  - |
    for i in 1 2 3; do
      echo "$i"
    done
ports: [8000, "8001:80", 8000:22, "*:90"]
resources: {cpu: 2.., memory: 8GB..16GB, gpu: "nvidia:24GB..:1..8", disk: 50GB}
retry: {on_events: [interruption], duration: 2h}
max_duration: off
spot_policy: auto
"""


def written(spec: Spec) -> dict[str, Any]:
    """Which fields were written, in the whole tree."""
    values = {name: getattr(spec, name) for name in spec.model_fields_set - {"type"}}
    return {name: written(value) if isinstance(value, Spec) else None for name, value in values.items()}


@given(TASK_FIELDS)
def test_a_configuration_survives_its_json_and_so_does_what_of_it_was_written(fields: dict[str, Any]) -> None:
    task = Task.model_validate({"commands": ["true"], **fields})
    again = configuration_of(json.loads(json.dumps(to_mapping(task), allow_nan=False)))
    assert again == task
    assert written(again) == written(task)


def test_defaults_are_not_written() -> None:
    task = Task(commands=["true"])
    assert to_mapping(task) == {"type": "task", "commands": ["true"]}
    assert task.resources.model_fields_set == set()
    assert (task.resources.cpu, task.resources.memory) == (Range(2, None), Range(Memory(8), None))
    assert task.resources.disk == Disk(size=Range(Memory(100), None))
    assert task.resources.gpu is None
    assert to_mapping(Task(commands=["x"], resources=Resources(cpu=Range(4, None))))["resources"] == {"cpu": "4.."}


def test_what_is_changed_in_place_is_written() -> None:
    task = Task(commands=["x"])
    task.resources.gpu = GPU(name=["H100"], count=Range(8, 8))
    task.env["A"] = "1"
    task.ports.append("80")  # type: ignore[arg-type]
    task.tags["a"] = "b"
    task.files.append("x")  # type: ignore[arg-type]
    assert to_mapping(task) == {
        "type": "task",
        "commands": ["x"],
        "resources": {"gpu": {"name": ["H100"], "count": "8"}},
        "env": {"A": "1"},
        "ports": ["80"],
        "tags": {"a": "b"},
        "files": ["x"],
    }
    task = Task(image="ubuntu")
    task.commands.append("echo")
    task.image = None
    assert to_mapping(task) == {"type": "task", "image": None, "commands": ["echo"]}


def test_what_is_changed_in_place_deep_inside_is_written() -> None:
    resources = Resources()
    assert resources.disk is not None
    resources.disk.size = "50GB"  # type: ignore[assignment]
    assert to_mapping(resources) == {"disk": {"size": "50GB"}}
    service = Service(port=80, commands=["x"], probes=[{"type": "http"}])  # type: ignore[arg-type,list-item]
    service.probes[0].headers.append({"name": "Accept", "value": "x"})  # type: ignore[arg-type]
    assert to_mapping(service)["probes"] == [{"type": "http", "headers": [{"name": "Accept", "value": "x"}]}]
    profile = Profile(name="cheap")
    profile.tags["a"] = "b"
    assert to_mapping(profile) == {"name": "cheap", "tags": {"a": "b"}}


def test_what_is_changed_in_place_is_checked_and_all_of_it_told() -> None:
    task = Task(commands=["x"])
    task.ports.append("http")  # type: ignore[arg-type]
    task.commands.append(object())  # type: ignore[arg-type]
    task.env["1A"] = "x"
    with pytest.raises(ConfigurationError) as caught:
        to_mapping(task)
    assert "`ports.0`: expected a port such as" in caught.value.message
    assert "`commands.1`: expected text" in caught.value.message
    assert "found `1A`" in caught.value.message
    task = Task(commands=["x"])
    task.commands.clear()
    with pytest.raises(ConfigurationError, match=r"`commands` is empty, .*: there is nothing to run"):
        to_mapping(task)


def test_reading_a_field_does_not_write_it() -> None:
    task = Task(commands=["x"])
    assert (task.env, task.ports, task.tags) == ({}, [], {}) and task.resources.disk is not None
    task.ports.append("80")  # type: ignore[arg-type]
    task.ports.clear()
    assert to_mapping(task) == {"type": "task", "commands": ["x"]}


def test_the_example_means_what_it_says() -> None:
    assert to_mapping(parse_configuration(EXAMPLE, "x.yml")) == {
        "type": "task",
        "name": "train-1",
        "python": "3.10",
        "env": {"HF_TOKEN": None, "EPOCHS": "3"},
        "commands": ["pip install -r requirements.txt", 'for i in 1 2 3; do\n  echo "$i"\ndone\n'],
        "ports": ["8000", "8001:80", "8000:22", "*:90"],
        "resources": {
            "cpu": "2..",
            "memory": "8GB..16GB",
            "gpu": {"vendor": "nvidia", "memory": "24GB..", "count": "1..8"},
            "disk": {"size": "50GB"},
        },
        "retry": {"on_events": ["interruption"], "duration": "2h"},
        "max_duration": "off",
        "spot_policy": "auto",
    }


def parsed(text: str) -> Configuration | None:
    """The configuration, or None where it was refused with a place and in words that can be printed."""
    try:
        return parse_configuration(text, "x.yml")
    except ConfigurationError as error:
        assert error.message.startswith("x.yml")
        error.message.encode()
        return None


@given(st.text())
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    parsed(text)


YAML_PIECES = [
    *("&a ", "*a", "*env", "<<: *env", "!!int ", "!x ", "!!binary ", "? ", "- ", ": ", "---\n", "...\n", "%", "|\n"),
    *("\t", "\0", "\ud800", "\ufeff", "\r", "{", "}", "[", "]", '"', "'", "#", "0x" + "f" * 9000, "9" * 5000, ".inf"),
    *(
        ".nan",
        "~",
        "on",
        "1:2:3",
        "2020-13-45",
        "!!timestamp 2020-13-45",
        '"\\ud800"',
        '"\\0"',
        "-",
        "=",
        "1_0",
        "type",
    ),
]


@given(st.lists(st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 12), st.sampled_from(YAML_PIECES) | st.text())))
def test_a_damaged_example_is_a_configuration_or_refused(damages: list[tuple[int, int, str]]) -> None:
    text = EXAMPLE
    for start, length, piece in damages:
        text = text[:start] + piece + text[start + length :]
    parsed(text)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text()
    | st.sampled_from(["2..8", "..", "8GB", "A100:2", "*:80", "off", "\0", "\ud800", "9" * 5000])
)
FIELDS = st.sampled_from(
    [*Task.model_fields, *Resources.model_fields, "size", "name", "count", "on_events", "username"]
)
ANY_JSON = st.recursive(
    LEAVES, lambda part: st.lists(part, max_size=3) | st.dictionaries(FIELDS | st.text(), part, max_size=4)
)


@given(st.dictionaries(FIELDS | st.text(), ANY_JSON, max_size=6))
def test_any_json_is_a_configuration_or_refused(fields: dict[str, Any]) -> None:
    for mapping in (fields, {"type": "task", "commands": ["true"], **fields}):
        try:
            configuration = configuration_of(mapping)
        except ConfigurationError as error:
            error.message.encode()
        else:
            json.dumps(to_mapping(configuration), allow_nan=False).encode()


@given(TASK_FIELDS)
def test_a_configuration_written_as_yaml_by_a_program_is_read_back(fields: dict[str, Any]) -> None:
    task = Task.model_validate({"commands": ["true"], **fields})
    text = yaml.safe_dump(to_mapping(task))
    assert parse_configuration(text, "x.yml") == task


def test_the_schema_for_editors_has_every_field() -> None:
    assert set(Task.model_json_schema()["properties"]) == set(Task.model_fields)
