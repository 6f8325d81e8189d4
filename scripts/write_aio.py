"""Writes `dstack.api.aio` from the classes of `dstack.api`. `make docs` runs it; a test compares.

Each class that sends requests becomes a class of the same name, around an object of the first one. New classes and
methods need no change here, except that a method that may wait for hours goes into `WAITS`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import indent

from scripts.aio_awaiting import composed, translated
from scripts.aio_classes import Part, kind_of, names_in, read_classes

from dstack import api

ROOT = Path(__file__).resolve().parents[1]
RUFF = Path(sys.executable).with_name("ruff")

AIO = "dstack.api.aio"

WAITS = {"Client.close", "Run.attach", "Run.exec"}
"""Methods that may take hours. Each call has a thread of its own; other calls share a pool."""
AT_ONCE = {"Client.when_away"}
"""Methods that only set a value. They need no thread."""

ARGS = re.compile(r"^Args:\n((?: .*\n?|\n)+)", re.MULTILINE)
WRITTEN = "Written by `make docs`; do not edit."
CLOSES_ITSELF = "As an asynchronous context manager, it closes itself."
CONTEXT_MANAGER = """\
async def __aenter__(self) -> Client:
    return self

async def __aexit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    await self.close()
"""
IMPORTS = {
    "__future__": "from __future__ import annotations",
    "AsyncIterator": "from collections.abc import AsyncIterator",
    "Threads": "from dstack.api.aio._threads import Threads",
    "TracebackType": "from types import TracebackType",
    "api": "from dstack import api",
}
"""Imports that only the asyncio form needs."""


def aio_modules(homes: Mapping[str, str], source_of: Callable[[str], str]) -> dict[str, str]:
    """Return the source of each module of the asyncio form.

    Args:
        homes: the module of each exported class.
        source_of: returns the source of a module.
    """
    parts = read_classes(homes, source_of)
    classes = {one.name: one for one in parts if one.name == one.whole}
    modules: dict[str, list[Part]] = {}
    for one in parts:
        modules.setdefault(one.module, []).append(one)
    texts = {_moved(name): _Writer(classes, found).module() for name, found in modules.items()}
    return {**texts, AIO: _with_homes(source_of(AIO), {name: _moved(one.module) for name, one in classes.items()})}


class _Writer:
    """Writes one module."""

    def __init__(self, classes: Mapping[str, Part], parts: Sequence[Part]) -> None:
        self._classes = classes
        self._parts = parts

    def module(self) -> str:
        """Return the module's text."""
        name = self._parts[0].module
        known = {name: statement for part in self._parts for name, statement in part.imports.items()}
        near = {one.name for one in self._parts}
        bases = [part.base for part in self._parts if part.base]
        moved = {one.name: _import(one) for one in [*self._classes.values(), *bases]}
        imports = [one for key, one in {**known, **moved, **IMPORTS}.items() if key not in near]
        header = f'"""The asyncio form of `{name}`. {WRITTEN}"""'
        return formatted("\n".join([header, *imports, *map(self._class, self._parts)]), _path(_moved(name)))

    def _class(self, part: Part) -> str:
        lines = [self._docstring(_about(part))]
        lines += [] if part.base else [_init(part)]
        lines += [f"def __repr__(self) -> str:\n    return repr(self.{_inner(part)})"] if part.has_repr else []
        lines += [CONTEXT_MANAGER] if part.name == "Client" else []
        lines += [self._member(part, member) for member in part.members]
        return _block(f"class {part.name}{f'({part.base.name})' if part.base else ''}", lines)

    def _member(self, part: Part, member: ast.FunctionDef) -> str:
        """Return the member with the same name, parameters and docstring."""
        way, returns = "async def", ast.unparse(member.returns or ast.Constant(None))
        target, passed = f"self.{_inner(part)}.{member.name}", _passed(member)
        called = f"{target}({', '.join(passed)})"
        found, stream = names_in(member.returns) & self._classes.keys(), f"self._threads.stream({called})"
        match kind_of(member):
            case "value":
                way, imports = "def", [_import(self._classes[name]) for name in sorted(found)]
                body = [*imports, *self._returned(target, part, member)]
            case "static":
                way, body = "def", [f"return {part.name}(api.{part.name}.{member.name}({', '.join(passed)}))"]
            case "stream" if found:
                returns = f"Async{returns}"
                body = [f"async for one in {stream}:\n    yield {_around('one', found.pop(), part)}"]
            case "stream":
                way, returns, body = "def", f"Async{returns}", [f"return {stream}"]
            case _:
                body = self._call(called, [target, *passed], part, member)
        head = "\n".join([*(f"@{ast.unparse(one)}" for one in member.decorator_list), f"{way} {member.name}"])
        text = self._docstring(ast.get_docstring(member) or "")
        return _block(f"{head}({ast.unparse(member.args)}) -> {returns}", [text, *body])

    def _call(self, called: str, passed: Sequence[str], part: Part, member: ast.FunctionDef) -> list[str]:
        name = f"{part.whole}.{member.name}"
        if body := composed(member, part, self._classes):
            return body
        if name in AT_ONCE:
            return self._returned(called, part, member)
        way = "wait" if name in WAITS else "call"
        body = self._returned(f"await self._threads.{way}({', '.join(passed)})", part, member)
        return [*body, "self._threads.close()"] if name == "Client.close" else body

    def _returned(self, got: str, part: Part, member: ast.FunctionDef) -> list[str]:
        """Return the statements that return a result, with objects of `dstack.api` in those of the asyncio form."""
        returns = ast.unparse(member.returns or ast.Constant(None))
        found = names_in(member.returns) & self._classes.keys()
        if not found:
            return [got if returns == "None" else f"return {got}"]
        name = found.pop()
        one_line = [f"return {_around(got, name, part)}"]
        forms = {
            name: [f"found = {got}", f"return {_around('found', name, part)}"] if name == part.whole else one_line,
            f"{name} | None": [f"found = {got}", f"return None if found is None else {_around('found', name, part)}"],
            f"list[{name}]": [f"return [{_around('one', name, part)} for one in {got}]"],
        }
        if returns not in forms:
            raise NotImplementedError(f"`{part.whole}.{member.name}` returns `{returns}`: add its form here")
        return forms[returns]

    def _docstring(self, text: str) -> str:
        text = translated(text, self._classes).replace("\\", "\\\\")
        return text and (f'"""{text}\n"""' if "\n" in text else f'"""{text}"""')


def formatted(text: str, path: Path) -> str:
    """Return a module in the project's form, with needed imports only. The lines of its examples are short too."""
    settings = ["lint.flake8-type-checking.strict = true", "format.docstring-code-format = true"]
    for step in (["check", "--fix-only", "--unsafe-fixes", "--select=I,F401,TC"], ["format"]):
        options = ["--quiet", *(f"--config={one}" for one in settings), f"--stdin-filename={path}", "-"]
        command: list[str | Path] = [RUFF, *step, *options]
        text = subprocess.run(command, input=text, cwd=ROOT, check=True, capture_output=True, encoding="utf-8").stdout
    return text


def files() -> dict[Path, str]:
    """Return the text of each file of the asyncio form."""
    modules = aio_modules(api._HOME, lambda module: _path(module).read_text(encoding="utf-8"))
    return {_path(name): text for name, text in modules.items()}


def _with_homes(package: str, homes: Mapping[str, str]) -> str:
    """Return the text of the package with these places of its classes."""
    imports = "".join(f"    from {home} import {name} as {name}\n" for name, home in homes.items())
    package = re.sub(rf"( +from {AIO}\.\w+ import \w+ as \w+\n)+", imports, package)
    return formatted(re.sub(r"(?<=^_OWN = )\{[^}]*\}", str(homes), package, flags=re.MULTILINE), _path(AIO))


def _about(part: Part) -> str:
    """Return the docstring without the arguments, which differ; `Client` closes itself."""
    summary, _, rest = ARGS.sub("", part.docstring).partition("\n")
    return f"{summary} {CLOSES_ITSELF}\n{rest}" if part.name == "Client" else "\n".join(filter(None, [summary, rest]))


def _init(part: Part) -> str:
    inner = _inner(part)
    given, threads = (", threads: Threads", "threads") if part.whole != "Client" else ("", "Threads()")
    head = f"def __init__(self, {inner[1:]}: api.{part.whole}{given}) -> None"
    return _block(head, [f"self.{inner} = {inner[1:]}", f"self._threads = {threads}"])


def _inner(part: Part) -> str:
    """Return the name of the attribute with the object of `dstack.api`, such as `_runs` in `RunCollection`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", part.whole.removesuffix("Collection")).lower()
    return f"_{words}s" if part.whole.endswith("Collection") else f"_{words}"


def _around(value: str, name: str, part: Part) -> str:
    """Return the asyncio object around another one; this object if it is around that one already."""
    new = f"{name}({value}, self._threads)"
    return f"self if {value} is self.{_inner(part)} else {new}" if name == part.whole else new


def _passed(member: ast.FunctionDef) -> list[str]:
    """Return the arguments with which a call passes all parameters on."""
    all_of = member.args
    by_place = [one.arg for one in [*all_of.posonlyargs, *all_of.args]][int(kind_of(member) != "static") :]
    several = [f"*{all_of.vararg.arg}"] if all_of.vararg else []
    by_name = [f"{one.arg}={one.arg}" for one in all_of.kwonlyargs]
    return [*by_place, *several, *by_name, *([f"**{all_of.kwarg.arg}"] if all_of.kwarg else [])]


def _block(head: str, body: Sequence[str]) -> str:
    return "\n".join([f"{head}:", *(indent(one, " " * 4) for one in body if one)])


def _import(part: Part) -> str:
    return f"from {_moved(part.module)} import {part.name}"


def _moved(module: str) -> str:
    return module.replace("dstack.api.", f"{AIO}.")


def _path(module: str) -> Path:
    return ROOT / "src" / f"{module.replace('.', '/')}{'/__init__' if module == AIO else ''}.py"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
