"""Every public name is documented with an example, and the examples are true on a machine where nothing is set up."""

import importlib
import inspect
import re
import sys
from types import ModuleType

import pytest

import dstack.api
import dstack.api.aio
from tests.e2e.home import Home


def modules_with_examples(package: ModuleType) -> list[str]:
    """Return the modules that define what a package exports, and the package, as far as they have examples."""
    kinds = [kind for name in package.__all__ if inspect.isclass(kind := getattr(package, name))]
    names = {part.__module__ for kind in kinds for part in kind.__mro__} | {package.__name__}
    return sorted(name for name in names if name.startswith("dstack.") and _has_examples(name))


def _has_examples(module: str) -> bool:
    return ">>> " in inspect.getsource(importlib.import_module(module))


SYNC = modules_with_examples(dstack.api)
ASYNCIO = [name for name in modules_with_examples(dstack.api.aio) if name not in SYNC]
EXPORTED = [getattr(package, name) for package in (dstack.api, dstack.api.aio) for name in package.__all__]
OWN = {f"{kind.__module__}.{kind.__name__}": kind for kind in EXPORTED if kind.__module__.startswith("dstack.api.")}

TRY = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    print("tried", name, found.attempted, found.failed)
"""


@pytest.mark.parametrize("modules", [SYNC, ASYNCIO], ids=["sync", "asyncio"])
def test_the_examples_are_true(home: Home, modules: list[str]) -> None:
    home.env["DSTACK_LOCAL_BACKEND"] = "1"  # some examples add users
    done = home.run_program(sys.executable, "-c", TRY, *modules)
    tried = re.findall(r"^tried (\S+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert [module for module, _, _ in tried] == modules, done.stderr
    assert all(int(attempted) > 0 and failed == "0" for _, attempted, failed in tried), done.stdout + done.stderr


@pytest.mark.parametrize("name", dstack.api.__all__)
def test_every_exported_name_says_what_it_is_and_shows_it(name: str) -> None:
    text = inspect.getdoc(getattr(dstack.api, name)) or ""
    assert text and ">>> " in text


@pytest.mark.parametrize("name", OWN)
def test_every_method_says_what_it_does_and_shows_it(name: str) -> None:
    members = inspect.getmembers_static(OWN[name])
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
