import doctest
from importlib import import_module
from pkgutil import iter_modules

import pytest

import dstack.kit
import dstack.protocol
import dstack.spec

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (dstack.kit, dstack.protocol, dstack.spec)
    for module in iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(import_module(name)) if test.examples]
    assert len(examples) >= 15
