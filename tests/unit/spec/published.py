"""The configurations in `configurations/`: what becomes of each stands in comments above it."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "configurations"
_LINE = re.compile(r"# (reads|note|later|refused|shows|prints|ends|stopped|answers|nowhere): (.*)")
HERE = "/HERE"
"""Stands in a text for the folder that the configuration's folder lies in."""
WHOLE = 7777
"""Stands for the number of the machine's processors."""


@dataclass(frozen=True)
class Case:
    """One configuration and what becomes of it."""

    title: str
    text: str
    said: dict[str, list[str]]

    @property
    def is_profiles(self) -> bool:
        """Whether it is a file of profiles."""
        return self.text.startswith("profiles:")

    @property
    def shows(self) -> list[str]:
        """The fields whose effect is observed where it runs."""
        return list(self.fact("shows") or [])

    @cached_property
    def ends(self) -> dict[str, Any]:
        """How its run ends."""
        return {"status": "done", **(self.fact("ends") or {})}

    def fact(self, name: str) -> Any:
        """Return the value of a comment, or None."""
        return yaml.safe_load(self.said[name][0]) if name in self.said else None

    def at(self, here: Path, cpus: int) -> str:
        """Return the text for a folder and a machine."""
        return self.text.replace(HERE, str(here)).replace(str(WHOLE), str(cpus))


def read_cases() -> list[Case]:
    """Return the configurations of all files."""
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
