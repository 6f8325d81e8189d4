"""Configurations such as people publish, from December 2024 to today: each is read as its lines say, or refused.

The files in `configurations/` hold them, with comments above each: a title, and `reads:` (some fields of the result),
`note:` (a hint on an old spelling), `later:` (what no part of dstack can do yet) or `refused:` (the whole message).
Those of `running.yml` run in `tests/e2e/test_effects.py`: `shows:` are the fields whose effect is observed there, by
what the job `prints:`, how the run `ends:`, what its ports say (`answers:`), or why it can run `nowhere:`.
"""

import json
from typing import Any

import pytest
import yaml

from dstack.domain.specs import not_built_yet
from dstack.errors import ConfigurationError
from dstack.spec.kinds import RUN_TYPES
from dstack.spec.parse import (
    configuration_of,
    parse_configuration,
    to_mapping,
)
from tests.unit.spec.making import mistakes_in, notes_in, parse_profiles
from tests.unit.spec.published import Case, read_cases

MESSAGE_MAX = 200
CASES = read_cases()
ACCEPTED = [case for case in CASES if "refused" not in case.said and not case.is_profiles]
PROFILES = [case for case in CASES if "refused" not in case.said and case.is_profiles]
REFUSED = [case for case in CASES if "refused" in case.said]


def _title(case: Case) -> str:
    return case.title


def test_there_are_configurations_of_every_verdict_each_under_a_title_of_its_own() -> None:
    assert len(CASES) >= 250 and len({case.title for case in CASES}) == len(CASES)
    assert all(case.said and case.text for case in CASES)


NOT_SEEN_IN_A_JOB = {
    "availability_zones": "refused by name",
    "docker": "refused by name",
    "instances": "refused by name",
    "idle_duration": "this machine is never ended: tests/unit/engine/test_instances.py",
    "termination_idle_time": "as `idle_duration`",
    "termination_policy": "as `idle_duration`",
    "schedule": "begins with the next minute: simulated histories have virtual time",
    "single_branch": "a clone has one branch: tests/unit/agent/test_clones.py",
    "startup_order": "needs several machines: tests/simulation/test_orders_of_nodes.py",
    "stop_criteria": "needs several machines: tests/simulation/test_orders_of_nodes.py",
    "tags": "kept with the run, and shown with it",
    "utilization_policy": "needs a GPU: tests/unit/domain/test_utilization.py",
    "version": "needs a network: tests/unit/domain/test_specs.py",
}


def test_effect_of_every_field_is_observed_in_a_job_or_cannot_be() -> None:
    fields = {*RUN_TYPES["task"].model_fields, *RUN_TYPES["dev-environment"].model_fields}
    shown = {field for case in CASES for field in case.shows}
    assert shown <= fields and not shown & NOT_SEEN_IN_A_JOB.keys()
    assert fields - shown == NOT_SEEN_IN_A_JOB.keys()
    assert sum("prints" in case.said for case in CASES) >= 60


@pytest.mark.parametrize("case", ACCEPTED, ids=_title)
def test_public_configuration_is_read(case: Case) -> None:
    written = parse_configuration(case.text, "x.yml")
    mapping = to_mapping(written)
    for expected in case.said.get("reads", ()):
        fields = yaml.safe_load(expected)
        assert _common(mapping, fields) == fields
    assert [note.partition(": ")[2] for note in notes_in(case.text)] == case.said.get("note", [])
    if mapping["type"] in RUN_TYPES:
        assert list(not_built_yet(configuration_of(mapping))) == case.said.get("later", [])
    again = parse_configuration(json.dumps(mapping), "x.yml")
    assert again == written and to_mapping(again) == mapping


@pytest.mark.parametrize("case", PROFILES, ids=_title)
def test_public_file_of_profiles_is_read(case: Case) -> None:
    profiles = parse_profiles(case.text, "x.yml")
    (expected,) = case.said["reads"]
    assert to_mapping(profiles) == yaml.safe_load(expected)
    assert all(profiles.chosen(one.name) is one for one in profiles.profiles)


@pytest.mark.parametrize("case", REFUSED, ids=_title)
def test_mistake_in_a_configuration_is_told_in_few_words(case: Case) -> None:
    with pytest.raises(ConfigurationError) as caught:
        (parse_profiles if case.is_profiles else parse_configuration)(case.text, "x.yml")
    lines = mistakes_in(caught.value, "x.yml")
    assert lines == [f"x.yml:{line}" for line in case.said["refused"]]
    assert caught.value.hint is None
    assert all(len(line) <= MESSAGE_MAX for line in lines)


def _common(found: Any, expected: Any) -> Any:
    """Return the part of what was found that the expectation names."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return {name: _common(found[name], part) for name, part in expected.items() if name in found}
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [_common(one, part) for one, part in zip(found, expected, strict=True)]
    return found
