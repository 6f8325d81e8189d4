"""The canonical form of a configuration: profile below it, changes above it, and mistakes in each of them."""

from typing import Any

import pytest

from dstack.errors import ConfigurationError
from dstack.spec.mistakes import Mistake, Mistaken
from dstack.spec.reading import read
from dstack.spec.yaml import read_yaml

TASK: dict[str, Any] = {"type": "task", "commands": ["x"]}
NAMES = ["my profile/ü", "gpu: big", "007", "yes", "a'b", "名前"]
PROFILES = """
profiles:
- {name: my profile/ü, max_price: 1}
- {name: "gpu: big", max_price: 2}
- {name: 007, max_price: 3}
- {name: yes, max_price: 4}
- {name: "a'b", max_price: 5}
- {name: 名前, max_price: 6}
"""


def test_changes_override_the_configuration_and_that_overrides_the_profile() -> None:
    fields = {
        "retry": False,
        "env": ["A=1", "B"],
        "resources": {"cpu": "2..8", "gpu": "A100:2"},
        "ports": ["8000:80", 90],
    }
    changes = {"max_duration": "2h", "env": {"A": "2"}, "resources": {"cpu": "4"}}
    usual = {"name": "usual", "default": True, "retry_policy": True, "max_duration": "1h", "stop_duration": 60}
    found = read({**TASK, **fields}, changes, [{"profiles": [usual]}], None)
    assert found.configuration == {
        **TASK,
        "retry": None,
        "env": {"A": "2", "B": None},
        "resources": {"cpu": "4", "gpu": {"name": ["A100"], "count": "2"}},
        "ports": ["8000:80", "90"],
        "max_duration": "2h",
        "stop_duration": "1m",
    }
    assert dict(found.ports) == {80: 8000, 90: 90} and not found.notes


@pytest.mark.parametrize("name", NAMES)
def test_profile_is_found_by_a_name_of_any_characters(name: str) -> None:
    files = [{"profiles": [{"name": "other"}]}, read_yaml(PROFILES, "p.yml").data]
    assert read(TASK, {}, files, name).configuration["max_price"] == NAMES.index(name) + 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "There is no profile `chep`: no file has profiles"),
        ([{"profiles": [{"name": "cheap"}]}], "There is no profile `chep`; did you mean `cheap`?"),
        (
            [{"profiles": [{"name": "a"}]}, {"profiles": [{"name": "b"}]}],
            "There is no profile `chep`; known are `a`, `b`",
        ),
    ],
)
def test_missing_profile_is_reported_with_the_known_ones(files: list[object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(TASK, {}, files, "chep")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("configuration", "changes", "files", "document", "path"),
    [
        ([], {}, [], 0, ()),
        ({**TASK, "commands": ["x", 1.5]}, {"max_price": -1}, [], 0, ("commands", 1)),
        (TASK, {"max_price": -1}, [{"profiles": 1}], None, ("max_price",)),
        (TASK, {"resources": 5}, [], None, ("resources",)),
        (TASK, {"env": 5}, [], None, ("env",)),
        (TASK, {"type": "fleet"}, [], None, ("type",)),
        (TASK, {}, [{"profiles": [{"name": "a"}]}, {"profiles": [{}]}], 2, ("profiles", 0, "name")),
    ],
)
def test_mistakes_are_those_of_one_document(
    configuration: object, changes: dict[str, object], files: list[object], document: int | None, path: tuple[object]
) -> None:
    with pytest.raises(Mistaken) as caught:
        read(configuration, changes, files, None)
    assert caught.value.document == document
    assert [one.path for one in caught.value.mistakes] == [path]


def test_old_spelling_is_noted_at_its_field_and_not_for_a_profile() -> None:
    profile = {"name": "a", "default": True, "retry_policy": True}
    found = read({**TASK, "termination_idle_time": "1m"}, {}, [{"profiles": [profile]}], None)
    text = "`termination_idle_time` is the old name of `idle_duration`: write `idle_duration` instead"
    assert found.notes == [Mistake(("termination_idle_time",), text)]


def test_configuration_of_another_type_than_a_run_is_read_as_it_is() -> None:
    fleet = {"type": "fleet", "name": "team", "nodes": 2}
    assert read(fleet, {"max_price": 1}, [], None).configuration == {**fleet, "nodes": {"min": 2, "max": 2}}


def test_large_text_with_unclosed_references_is_read() -> None:
    text = "}}" + "${{" * 170_000  # one search to the end of the text for each would take minutes
    assert read({**TASK, "commands": [text]}, {}, [], None).configuration["commands"] == [text]
