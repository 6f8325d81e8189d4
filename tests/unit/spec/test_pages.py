"""Configurations in the README and in the pages."""

import re

import pytest

from dstack.spec.parse import parse_configuration
from tests.architecture.sources import ROOT
from tests.unit.spec.making import notes_in, parse_profiles

BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_configuration_of_a_page_is_accepted(block: str) -> None:
    if block.startswith("profiles:"):
        assert parse_profiles(block, "profiles.yml").profiles
    elif block.startswith("type:"):
        assert notes_in(block) == []
    else:
        parse_configuration(f"type: task\ncommands: [work]\n{block}", "page.dstack.yml")
