"""Reads the classes of `dstack.api` that send requests, as they are written. `write_aio.py` writes the others."""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

CONNECTIONS = {"Context", "Server", "Transport"}
"""The types of the objects through which a class sends requests. Its `__init__` takes one of them."""


@dataclass(frozen=True)
class Part:
    """An exported class, or a base of one in a module of its own."""

    name: str
    whole: str
    """The name of the exported class."""
    module: str
    imports: Mapping[str, str]
    """The statement that imports a name elsewhere, for each name of the module."""
    base: "Part | None"
    docstring: str
    is_connected: bool
    """Whether programs cannot make one without a connection."""
    members: list[ast.FunctionDef] = field(default_factory=list)
    """The public methods and properties. An attribute that `__init__` sets is a property."""
    has_repr: bool = False

    def member(self, name: str) -> ast.FunctionDef | None:
        """Return a member of this part or of its bases; None if they lack it."""
        own = next((one for one in self.members if one.name == name), None)
        return self.base.member(name) if own is None and self.base else own


def read_classes(homes: Mapping[str, str], source_of: Callable[[str], str]) -> list[Part]:
    """Return the exported classes that send requests, each after its bases.

    Args:
        homes: the module of each exported class.
        source_of: returns the source of a module.
    """
    found = [_read(name, name, home, source_of) for name, home in sorted(homes.items())]
    return [part for one in found if one is not None and one.is_connected for part in _chain(one)]


def kind_of(member: ast.FunctionDef) -> Literal["value", "static", "stream", "call"]:
    """Return whether a member is a property, a static method, a method that returns an iterator, or another method."""
    decorators = {ast.unparse(one) for one in member.decorator_list}
    if decorators & {"property", "cached_property"}:
        return "value"
    if "staticmethod" in decorators:
        return "static"
    is_stream = isinstance(member.returns, ast.Subscript) and ast.unparse(member.returns.value) == "Iterator"
    return "stream" if is_stream else "call"


def names_in(node: ast.AST | None) -> set[str]:
    """Return the names that an expression uses."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} if node else set()


def _read(name: str, whole: str, module: str, source_of: Callable[[str], str]) -> Part | None:
    """Return a class with its bases; None if the module has no such class."""
    tree = ast.parse(source_of(module))
    node = next((one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name), None)
    if node is None:
        return None
    imports = dict(_imports(tree.body, module))
    bases = [imports[one].split() for one in map(ast.unparse, node.bases) if "from dstack.api." in imports.get(one, "")]
    parent = _read(bases[0][-1], whole, bases[0][1], source_of) if bases else None
    functions = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    for one in functions:
        one.returns = _Unquoted().visit(one.returns or ast.Constant(None))
        for parameter in ast.walk(one.args):
            if isinstance(parameter, ast.arg) and parameter.annotation:
                parameter.annotation = _Unquoted().visit(parameter.annotation)
    init = next((one for one in functions if one.name == "__init__"), None)
    takes = {name for one in init.args.args for name in names_in(one.annotation)} if init else set()
    about = ast.get_docstring(node) or ""
    return Part(
        name,
        whole,
        module,
        imports,
        base=parent if parent is None or parent.members or parent.has_repr else parent.base,
        docstring=about,
        is_connected=bool(takes & CONNECTIONS) or (parent is not None and parent.is_connected),
        members=[*_attributes(init, about), *(one for one in functions if not one.name.startswith("_"))],
        has_repr=any(one.name == "__repr__" for one in functions),
    )


def _imports(statements: list[ast.stmt], module: str) -> Iterator[tuple[str, str]]:
    for node in statements:
        if isinstance(node, ast.If):  # TYPE_CHECKING
            yield from _imports(node.body, module)
        elif isinstance(node, ast.Import):
            yield from ((one.name, f"import {one.name}") for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((one.name, f"from {node.module} import {one.name}") for one in node.names)
        elif isinstance(node, ast.ClassDef):
            yield node.name, f"from {module} import {node.name}"


def _attributes(init: ast.FunctionDef | None, about: str) -> Iterator[ast.FunctionDef]:
    """Yield the public attributes that are parameters of `__init__`, with the lines about them in the docstring."""
    types = {one.arg: ast.unparse(one.annotation) for one in init.args.args if one.annotation} if init else {}
    for node in init.body if init else ():
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            name = node.targets[0].attr
            if name in types and not name.startswith("_"):
                text = about.partition(f" {name}: ")[2].partition("\n")[0]
                text = f"@property\ndef {name}(self) -> {types[name]}:\n    {text[:1].upper() + text[1:]!r}"
                yield from (one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef))


def _chain(one: Part) -> Iterator[Part]:
    if one.base is not None:
        yield from _chain(one.base)
    yield one


class _Unquoted(ast.NodeTransformer):
    """Removes the quotes around an annotation and its parts."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return node if ast.unparse(node.value) == "Literal" else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return self.visit(ast.parse(node.value, mode="eval").body) if isinstance(node.value, str) else node
