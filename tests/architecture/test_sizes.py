import ast
import statistics

from tests.architecture.sources import MODULES, Function, Named, length, shown, tree

FILE_LINES = 400
FILE_LINES_HARD = 600
FUNCTION_LINES = 60
FUNCTION_LINES_P95 = 40
OWN_IMPORTS = 12

CODE = [path for path in MODULES if "versions" not in path.parts]
"""All but migrations, which are records of what once was done."""

WRITTEN_BY_HAND = [path for path in CODE if "Written by `make docs`" not in path.read_text(encoding="utf-8")]

LONG_FILES: dict[str, int] = {}
"""Files that may be longer, and how long they are. This list only shrinks."""

MANY_IMPORTS: dict[str, int] = {
    "src/dstack/operations/submitting.py": 14,
}
"""Modules that import more of ours than they should, and how many. This list only shrinks."""

ROOTS = {
    "src/dstack/agent/main.py",
    "src/dstack/operations/context.py",
    "src/dstack/server/app.py",
    "src/dstack/server/parts.py",
    "src/dstack/engine/lifecycles.py",
    "src/dstack/testing/world.py",
    "src/dstack/testing/histories.py",
    "src/dstack/testing/cluster.py",
}
"""Modules whose work is to put others together."""


def test_files_are_short() -> None:
    lines = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    long = {name: count for name, count in lines.items() if count > FILE_LINES}
    assert long == LONG_FILES, f"a module has at most {FILE_LINES} lines"
    assert all(count <= FILE_LINES_HARD for count in LONG_FILES.values())


def test_functions_fit_a_screen() -> None:
    functions = [
        (shown(path, node), node.name, length(node))
        for path in WRITTEN_BY_HAND
        for node in ast.walk(tree(path))
        if isinstance(node, Function)
    ]
    assert [one for one in functions if one[2] > FUNCTION_LINES] == []
    assert statistics.quantiles((lines for *_, lines in functions), n=20)[-1] <= FUNCTION_LINES_P95


def test_no_module_knows_too_many_others() -> None:
    counts = {}
    for path in MODULES:
        imports = [node for node in tree(path).body if isinstance(node, ast.ImportFrom | ast.Import)]
        own = {name for node in imports for name in _modules(node) if name.split(".")[0] == "dstack"}
        counts[shown(path)] = len(own)
    many = {name: count for name, count in counts.items() if count > OWN_IMPORTS and name not in ROOTS}
    assert many == MANY_IMPORTS, f"a module imports at most {OWN_IMPORTS} of ours"


def test_every_module_and_every_public_name_says_what_it_is() -> None:
    silent = [shown(path) for path in MODULES if ast.get_docstring(tree(path)) is None]
    for path in CODE:
        for node in tree(path).body:
            if isinstance(node, Named) and not node.name.startswith("_") and ast.get_docstring(node) is None:
                silent.append(f"{shown(path, node)} {node.name}")
    assert silent == []


def _modules(node: ast.ImportFrom | ast.Import) -> list[str]:
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
