"""Everything that the page promises of the Python API is there, with the names, the order and the defaults it gives."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import dstack.api
from dstack.errors import DstackError
from dstack.kit.ranges import Range
from dstack.kit.units import Memory
from tests.page.extract import facts_of
from tests.page.find import HOW, find_page

FACTS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "page" / "facts.json").read_text(encoding="utf-8"))
CLASSES = sorted(FACTS.keys() - {"program"})
FIELDS = [(name, field) for name in CLASSES for field in FACTS[name]["fields"]]
METHODS = [(name, method) for name in CLASSES for method in FACTS[name]["methods"]]
ATTRIBUTES = [(name, attribute) for name in CLASSES for attribute in FACTS[name]["attributes"]]

DEFAULTS: dict[tuple[str, str], object] = {
    ("cpu", "2.."): Range(2, None),
    ("memory", "8GB.."): Range(Memory(8), None),
    ("count", "1"): Range(1, 1),
    ("replicas", "1"): Range(1, 1),
    ("nodes", "1"): 1,
    ("scale_up_delay", "300"): 300,
    ("scale_down_delay", "600"): 600,
    ("https", "True"): True,
    ("auth", "True"): True,
    ("retry", "false"): None,  # written `false`, kept as "no policy"
    ("max_duration", "off"): None,  # written `off`, kept as "no limit"
    ("working_dir", "."): None,  # unset means the folder itself
    ("spot_policy", "on-demand"): "on-demand",
    ("creation_policy", "reuse-or-create"): "reuse-or-create",
    ("termination_policy", "destroy-after-idle"): "destroy-after-idle",
    ("termination_idle_time", "5m"): 300,
}
"""What a default in the page's words is in the code: one entry for each, so that none is forgotten."""


def exported(name: str) -> Any:
    assert name in dstack.api.__all__, f"dstack.api does not export {name}"
    return getattr(dstack.api, name)


def test_the_page_itself_says_what_the_facts_say() -> None:
    text = find_page()
    if text is None:
        pytest.skip(f"the page is not here, so only the facts that were drawn from it are checked: {HOW}")
    assert facts_of(text) == FACTS


def test_the_facts_are_not_few() -> None:
    assert len(CLASSES) >= 14 and len(FIELDS) >= 70 and len(METHODS) >= 15 and len(ATTRIBUTES) >= 18


@pytest.mark.parametrize("name", [*CLASSES, *FACTS["program"]["imports"]])
def test_every_class_is_exported(name: str) -> None:
    assert inspect.isclass(exported(name))


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_field_is_there_required_or_with_the_default_of_the_page(name: str, field: str) -> None:
    model, said = exported(name), FACTS[name]["fields"][field]
    assert issubclass(model, BaseModel)
    found = model.model_fields[field]
    assert found.is_required() == (not said["optional"])
    if said["default"] is not None:
        assert found.get_default(call_default_factory=True) == DEFAULTS[field, said["default"]]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_every_method_has_the_parameters_of_the_page_in_its_order(name: str, method: str) -> None:
    said = FACTS[name]["methods"][method]
    static = inspect.getattr_static(exported(name), method)
    assert isinstance(static, staticmethod) == said["static"]
    parameters = list(inspect.signature(getattr(exported(name), method)).parameters.values())
    if not said["static"]:
        parameters = parameters[1:]
    assert [[one.name, None if one.default is one.empty else repr(one.default)] for one in parameters] == said[
        "parameters"
    ]
    defaults = {one.name: "required" if one.default is one.empty else repr(one.default) for one in parameters}
    for parameter, default in said["table"].items():
        assert parameter in defaults
        assert default not in ("required", "None", "True", "False") or defaults[parameter] == default


@pytest.mark.parametrize(
    ("name", "method", "error"),
    [(name, method, error) for name, method in METHODS for error in FACTS[name]["methods"][method]["raises"]],
)
def test_every_exception_is_exported_and_told_where_it_is_raised(name: str, method: str, error: str) -> None:
    assert issubclass(exported(error), DstackError)
    assert f"{error}:" in (inspect.getdoc(getattr(exported(name), method)) or "")


@pytest.mark.parametrize(("name", "attribute"), ATTRIBUTES)
def test_every_attribute_is_there(name: str, attribute: str) -> None:
    kind = exported(name)
    if name == "VirtualRepo":
        kind = kind(repo_id="x")
    static = inspect.getattr_static(kind, attribute)
    assert static is not None and not inspect.isfunction(static), f"{name}.{attribute} is no attribute"


def test_the_values_of_backends_are_their_names_in_small_letters() -> None:
    for member in FACTS["BackendType"]["attributes"]:
        assert exported("BackendType")[member].value == member.lower()
