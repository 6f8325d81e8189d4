"""The project's own files, as the tests of this folder look at them."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "dstack"
MODULES = sorted(PACKAGE.rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef
Named = Function | ast.ClassDef


@cache
def tree(path: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path, node: ast.stmt | None = None) -> str:
    """Where something is, as an editor understands it."""
    place = str(path.relative_to(ROOT))
    return place if node is None else f"{place}:{node.lineno}"


def length(node: ast.stmt) -> int:
    """Lines from the first to the last, its docstring included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def definitions(module: ast.Module) -> Iterator[Named]:
    """Every class, method and function that can be reached by name from outside."""
    todo: list[ast.stmt] = list(module.body)
    while todo:
        node = todo.pop()
        if isinstance(node, Named):
            yield node
        if isinstance(node, ast.ClassDef):
            todo += node.body


@cache
def files() -> list[Path]:
    """What git keeps, or would keep: the files that travel."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(path for name in names if (path := ROOT / name).is_file())
