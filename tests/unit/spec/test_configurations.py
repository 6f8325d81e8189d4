"""Configurations such as people publish, from December 2024 to today: each is read as its lines say, or refused.

The files in `configurations/` hold them, with comments above each: a title, and `reads:` (some fields of the result),
`note:` (a hint on an old spelling), `later:` (what no part of dstack can do yet) or `refused:` (the whole message).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dstack.domain.specs import not_built_yet
from dstack.errors import ConfigurationError
from dstack.spec.parse import RUN_TYPES, configuration_of, parse_configuration, read_configuration, to_mapping

FOLDER = Path(__file__).parent / "configurations"
MESSAGE_MAX = 200
_LINE = re.compile(r"# (reads|note|later|refused): (.*)")


@dataclass(frozen=True)
class Case:
    """One configuration and what becomes of it."""

    title: str
    text: str
    said: dict[str, list[str]]


def _cases() -> list[Case]:
    cases = []
    for path in sorted(FOLDER.glob("*.yml")):
        for part in path.read_text(encoding="utf-8").split("\n---\n"):
            title, *rest = part.splitlines(keepends=True)
            said: dict[str, list[str]] = {}
            while rest and (line := _LINE.match(rest[0])) is not None:
                said.setdefault(line[1], []).append(line[2])
                rest.pop(0)
            cases.append(Case(title.strip("# \n"), "".join(rest), said))
    return cases


CASES = _cases()
ACCEPTED = [case for case in CASES if "refused" not in case.said]
REFUSED = [case for case in CASES if "refused" in case.said]


def _title(case: Case) -> str:
    return case.title


def test_there_are_configurations_of_every_verdict_each_under_a_title_of_its_own() -> None:
    assert len(CASES) >= 120 and len({case.title for case in CASES}) == len(CASES)
    assert all(case.said and case.text for case in CASES)


@pytest.mark.parametrize("case", ACCEPTED, ids=_title)
def test_public_configuration_is_read(case: Case) -> None:
    written = read_configuration(case.text, "x.yml")
    mapping = to_mapping(written.configuration)
    for expected in case.said.get("reads", ()):
        fields = yaml.safe_load(expected)
        assert _common(mapping, fields) == fields
    assert [note.partition(": ")[2] for note in written.notes] == case.said.get("note", [])
    if mapping["type"] in RUN_TYPES:
        assert list(not_built_yet(configuration_of(mapping))) == case.said.get("later", [])
    again = parse_configuration(json.dumps(mapping), "x.yml")
    assert again == written.configuration and to_mapping(again) == mapping


@pytest.mark.parametrize("case", REFUSED, ids=_title)
def test_mistake_in_a_configuration_is_told_in_few_words(case: Case) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(case.text, "x.yml")
    lines = caught.value.message.split("\n")
    assert lines == [f"x.yml:{line}" for line in case.said["refused"]]
    assert all(len(line) <= MESSAGE_MAX for line in lines)


def _common(found: Any, expected: Any) -> Any:
    """Return the part of what was found that the expectation names."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return {name: _common(found[name], part) for name, part in expected.items() if name in found}
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [_common(one, part) for one, part in zip(found, expected, strict=True)]
    return found
