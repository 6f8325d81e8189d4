"""Every public name is documented with an example, and the examples are true on a machine where nothing is set up."""

import inspect
import re
import sys

import pytest

import dstack.api
from tests.e2e.home import Home

MODULES = sorted(
    {
        *(kind.__module__ for name in dstack.api.__all__ if inspect.isclass(kind := getattr(dstack.api, name))),
        "dstack.api._submissions",
        "dstack.api.aio",
        "dstack.api.aio._client",
    }
)
OWN = [name for name in dstack.api.__all__ if getattr(dstack.api, name).__module__.startswith("dstack.api.")]


TRY = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    print("tried", name, found.attempted, found.failed)
"""


def test_the_examples_are_true(home: Home) -> None:
    done = home.run_program(sys.executable, "-c", TRY, *MODULES)
    tried = re.findall(r"^tried (\S+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert [module for module, _, _ in tried] == MODULES, done.stderr
    assert all(int(attempted) > 0 and failed == "0" for _, attempted, failed in tried), done.stdout + done.stderr


@pytest.mark.parametrize("name", dstack.api.__all__)
def test_every_exported_name_says_what_it_is_and_shows_it(name: str) -> None:
    text = inspect.getdoc(getattr(dstack.api, name)) or ""
    assert text and ">>> " in text


@pytest.mark.parametrize("name", OWN)
def test_every_method_says_what_it_does_and_shows_it(name: str) -> None:
    members = inspect.getmembers_static(getattr(dstack.api, name))
    silent = []
    for member, value in members:
        if member.startswith("_") or inspect.ismemberdescriptor(value):
            continue
        function = value.__func__ if isinstance(value, staticmethod) else value
        text = inspect.getdoc(function) or ""
        if not text or (inspect.isfunction(function) and ">>> " not in text):
            silent.append(member)
    assert silent == []


def test_every_field_of_a_configuration_says_what_it_is() -> None:
    from dstack.spec.kinds import TYPES

    for kind in TYPES.values():
        source = "".join(inspect.getsource(part) for part in kind.__mro__ if part.__module__.startswith("dstack.spec"))
        for field in kind.model_fields:
            after = source.partition(f"\n    {field}: ")[2]
            assert '"""' in after.partition("\n    @")[0].split("\n    #")[0][:600], f"{kind.__name__}.{field}"
