import argparse
import re
import runpy
from collections.abc import Iterable, Iterator
from functools import cache

import pytest

from dstack.cli.main import COMMANDS, parser
from dstack.protocol import requests, routes
from dstack.protocol.actions import Action
from dstack.protocol.routes import Route
from dstack.spec.kinds import RUN_TYPES, TYPES
from tests.architecture.sources import ROOT

ROUTES = [route for route in vars(routes).values() if isinstance(route, Route)]


@cache
def page(name: str) -> str:
    """Return a page that the site's build writes."""
    return str(runpy.run_path(str(ROOT / "scripts" / "reference_pages.py"))["PAGES"][f"reference/{name}.md"]())


def helps_of(one: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield the name and the help of a command and of its subcommands."""
    yield one.prog, one.format_help()
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from helps_of(child)


def section_of(text: str, title: str) -> str:
    """Return what stands below a heading, up to the next one."""
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no heading `{title}`"
    return found[1]


def test_every_command_and_option_is_in_the_reference() -> None:
    shown_of = dict(helps_of(parser()))
    assert {f"dstack {command}" for command in COMMANDS} < set(shown_of)
    for name, shown in shown_of.items():
        section = section_of(page("cli"), name)
        lines = re.findall(r"^  (-.*)$", shown, re.MULTILINE)
        options = {option for line in lines for option in re.findall(r"(?:^|, )(--?[\w-]+)", line.split("  ")[0])}
        assert "--help" in options
        missing = {option for option in options - {"-h", "--help"} if f"`{option}" not in section}
        assert missing == set(), f"{name}: {missing}"


def test_every_endpoint_and_its_objects_are_in_the_reference() -> None:
    assert [one.path for one in ROUTES if f"\n`{one.method} {one.path}`\n" not in page("http")] == []
    fields: dict[str, Iterable[str]] = {}
    for route in ROUTES:
        if route.request is not None:
            fields[route.request] = getattr(requests, route.request).__struct_fields__
        if route.view is not None:
            fields[route.view.__name__] = route.view.__struct_fields__
    for name, of_object in fields.items():
        section = section_of(page("http"), name)
        assert [field for field in of_object if f"| `{field}` |" not in section] == []


def test_every_role_action_and_endpoint_is_in_the_table_of_roles() -> None:
    text = page("roles")
    assert [action for action in Action if f"| {action} |" not in text] == []
    assert [one.path for one in ROUTES if f"| `{one.method} {one.path}` | {one.action or ''}" not in text] == []
    assert "| read values of secrets | yes | yes |  |" in text


def test_every_field_of_yaml_is_in_the_reference_with_its_meaning() -> None:
    shared = section_of(page("yaml"), "Fields of every run")
    for name, kind in TYPES.items():
        section = section_of(page("yaml"), f"type: {name}") + (shared if name in RUN_TYPES else "")
        assert [field for field in kind.model_fields if f"| `{field}` |" not in section] == []
    assert re.findall(r"^.*\| +\|$", page("yaml"), re.MULTILINE) == [], "a field without a meaning"
    assert "| `idle_duration` | whole number or text or `off` | `5m` |" in shared


@pytest.mark.parametrize("name", ["http", "yaml"])
def test_links_inside_the_reference_lead_to_its_headings(name: str) -> None:
    titles = {title.lower().replace(" ", "-") for title in re.findall(r"^##+ (.+)$", page(name), re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page(name))) - titles == set()
