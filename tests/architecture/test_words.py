import re

from tests.architecture.sources import MODULES, definitions, shown, tree

MEANINGLESS = {
    *("util", "utils", "common", "helper", "helpers", "misc", "manager", "handler", "processor"),
    *("info", "obj", "tmp"),
}
"""Words that say nothing about what a thing is; docs/glossary.md has those that do."""

OF_OTHERS = {"get_route_handler"}
"""Names that a library gives to what it calls: FastAPI's."""


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_names_say_what_a_thing_is() -> None:
    found = [shown(path) for path in MODULES if words(path.stem) & MEANINGLESS]
    for path in MODULES:
        found += [
            f"{shown(path, node)} {node.name}"
            for node in definitions(tree(path))
            if words(node.name) & MEANINGLESS and node.name not in OF_OTHERS
        ]
    assert found == []
