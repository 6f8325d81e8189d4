"""Writes the pages of docs/ that come from the code. `make docs` runs it; a test compares."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dstack.domain.lifecycle import Lifecycle
from dstack.engine.lifecycles import LIFECYCLES

ROOT = Path(__file__).resolve().parents[1]

OPENING = """\
# Lifecycles

Written by `make docs` from the tables in `dstack.engine.lifecycles`; do not edit. A status that is not here does not
exist, and a move that is not here cannot happen.
"""


def lifecycles_page() -> str:
    """Every status of every object: the diagram, and who acts in it."""
    return "\n".join([OPENING, *(_section(table) for table in LIFECYCLES.values())])


def _section(table: Lifecycle[Any, Any]) -> str:
    lines = [f"## {table.name.capitalize()}", "", "```mermaid", table.mermaid(), "```", ""]
    lines += ["| while | step | which does this | then |", "|---|---|---|---|"]
    for status, row in table.rows.items():
        lines.append(f"| {status} | `{row.do.__name__}` | {_summary(row.do)} | {', '.join(row.to)} |")
    return "\n".join([*lines, ""])


def _summary(step: Callable[..., object]) -> str:
    """What the step does: the first paragraph of its docstring, without the full stop."""
    text = inspect.getdoc(step) or ""
    return " ".join(text.split("\n\n")[0].split()).removesuffix(".")


PAGES: Mapping[str, Callable[[], str]] = {"docs/lifecycles.md": lifecycles_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")
