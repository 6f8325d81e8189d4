"""From the text of the page to facts: classes, fields, methods, parameters, defaults, exceptions.

`python -m tests.page.extract PAGE > tests/page/facts.json` writes them anew.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, TypeAlias

Facts: TypeAlias = dict[str, Any]

_SECTION = re.compile(r"dstack\.api\.(\w+)")
_METHOD = re.compile(r"(\w+)\((.*)\)( staticmethod)?")
_FIELD = re.compile(r"(\w+) - (\(Optional\) )?(.+)")
_DEFAULT = re.compile(r"Defaults to (?!the )\"?(\S+?)\"?\.?(?: |$)")
_ROW = re.compile(r"(\w+)(?: (\S.*))?")
_ENDS = ("Returns:", "Raises:", "Yields:", "Example:", "Attributes:", "Parameters:")


def facts_of(text: str) -> Facts:
    """What the page promises, by class; under `program` the names that its example imports."""
    facts: Facts = {"program": {"imports": _imports_in(text)}}
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    found: Facts = {}
    method: Facts | None = None
    for number, line in enumerate(lines):
        if section := _SECTION.fullmatch(line):
            found, method = facts.setdefault(section[1], {"fields": {}, "attributes": {}, "methods": {}}), None
        elif found and (signature := _METHOD.fullmatch(line)):
            method = found["methods"][signature[1]] = _method(signature)
        elif found and (field := _FIELD.fullmatch(line)):
            found["fields"][field[1]] = _field(field)
        elif found and line in ("Attributes:", "Parameters:"):
            rows = _rows(lines[number + 2 :], 3 if line == "Parameters:" else 2)
            (found["attributes"] if method is None else method["table"]).update(rows)
        elif method is not None and line == "Raises:":
            method["raises"].append(lines[number + 2])
    return facts


def program_in(text: str) -> str:
    """The example program."""
    start = text.index("import sys\n")
    end = text.index("run.detach()", start) + len("run.detach()")
    lines = text[start:end].split("\n")
    return "\n".join(line for line in lines) + "\n"


def _imports_in(text: str) -> list[str]:
    names = re.findall(r"^from dstack\.api import (.+)$", text, re.MULTILINE)
    return sorted({name.strip() for line in names for name in line.split(",")})


def _method(signature: "re.Match[str]") -> Facts:
    parameters = [part.partition("=") for part in signature[2].split(", ") if part]
    return {
        "static": signature[3] is not None,
        "parameters": [[name, default if mark else None] for name, mark, default in parameters],
        "table": {},
        "raises": [],
    }


def _field(line: "re.Match[str]") -> Facts:
    default = _DEFAULT.search(line[3])
    return {"optional": line[2] is not None, "default": default[1] if default else None}


def _rows(lines: list[str], width: int) -> dict[str, str]:
    """The rows of a table: `name type`, a description, and with a width of 3 a default."""
    rows = {}
    while lines and lines[0] not in _ENDS and not _METHOD.fullmatch(lines[0]) and not _SECTION.fullmatch(lines[0]):
        row = _ROW.fullmatch(lines[0])
        if row is None or len(lines) < width:
            break
        rows[row[1]] = lines[2] if width == 3 else row[2] or ""
        lines = lines[width:]
    return rows


if __name__ == "__main__":
    json.dump(facts_of(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
