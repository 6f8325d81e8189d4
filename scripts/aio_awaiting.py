"""Translates code that uses `dstack.api` into code that uses `dstack.api.aio`: examples, and bodies of methods."""

import ast
import doctest
import inspect
import re
from collections.abc import Mapping
from textwrap import indent

from scripts.aio_classes import Part, kind_of, names_in

CLIENT = "Client.from_config()"
EXAMPLES = re.compile(r"^Examples:\n((?: .*\n?|\n)+)", re.MULTILINE)


class Awaiting(ast.NodeTransformer):
    """Adds `await` and `async for` where the classes need them.

    Args:
        classes: the classes by name.
        types: the classes of the names that the code uses.
    """

    def __init__(self, classes: Mapping[str, Part], types: Mapping[str, Part]) -> None:
        self._classes = classes
        self._types = {**classes, **types}
        self.has_waits = False

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Note the class of the name."""
        self._note(node.targets[0], node.value)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Await a call that may take time, and the items of a stream that another call takes."""
        member, streams = self._member(node), [self._is_stream(one) for one in node.args]
        self.generic_visit(node)
        if ast.unparse(node.func) == "next":
            node.func = ast.Name("anext")
            return self._await(_with_few_brackets(node))
        for place, one in enumerate(node.args):
            if streams[place]:
                item = ast.Name("item")
                node.args[place] = ast.ListComp(item, [ast.comprehension(item, one, [], is_async=1)])
            elif isinstance(one, ast.GeneratorExp) and any(part.is_async for part in one.generators):
                node.args[place] = ast.ListComp(one.elt, one.generators)
        return self._await(node) if member and kind_of(member) == "call" else _with_few_brackets(node)

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        """Visit the iterables first: they have the classes of the other names."""
        node.generators = [self.visit(one) for one in node.generators]
        node.elt = self.visit(node.elt)
        return node

    visit_GeneratorExp = visit_ListComp  # type: ignore[assignment]

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Iterate over a stream with `async for`."""
        self._note(node.target, node.iter)
        node.is_async = int(self._is_stream(node.iter))
        self.has_waits |= bool(node.is_async)
        return self.generic_visit(node)

    def _await(self, node: ast.expr) -> ast.expr:
        self.has_waits = True
        return ast.Await(node)

    def _note(self, target: ast.expr, value: ast.expr) -> None:
        if (found := self._class_of(value)) is not None:
            self._types[ast.unparse(target)] = found

    def _class_of(self, node: ast.expr) -> Part | None:
        """Return the class of an expression, or of its items; None if it is none of the classes."""
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        member = self._member(node)
        names = names_in(member.returns) & self._classes.keys() if member else ()
        return next((self._classes[name] for name in sorted(names)), None)

    def _member(self, node: ast.expr) -> ast.FunctionDef | None:
        """Return the member that an expression calls or reads; None for another expression."""
        used = node.func if isinstance(node, ast.Call) else node
        owner = self._class_of(used.value) if isinstance(used, ast.Attribute) else None
        return owner.member(used.attr) if owner and isinstance(used, ast.Attribute) else None

    def _is_stream(self, node: ast.expr) -> bool:
        member = self._member(node)
        return member is not None and kind_of(member) == "stream"


def composed(function: ast.FunctionDef, owner: Part, classes: Mapping[str, Part]) -> list[str]:
    """Return the translated body of a method that only calls other methods of its class; nothing for another method.

    Cancellation reaches such a method between two calls too.
    """
    nodes = [node for statement in function.body for node in ast.walk(statement)]
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    own = [one for one in calls if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "self"]
    used = [node for node in nodes if isinstance(node, ast.Attribute)]
    methods = [member for one in own if (member := owner.member(one.attr)) and kind_of(member) == "call"]
    if not calls or not len(calls) == len(own) == len(methods) == len(used):
        return []
    awaiting = Awaiting(classes, {"self": owner})
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return [ast.unparse(awaiting.visit(statement)) for statement in body]


def translated(docstring: str, classes: Mapping[str, Part]) -> str:
    """Return a docstring whose example uses asyncio."""

    def replaced(found: re.Match[str]) -> str:
        end = found[1][len(found[1].rstrip()) :]
        return f"Examples:\n{indent(_example(found[1], classes), ' ' * 4)}{end}"

    return EXAMPLES.sub(replaced, docstring)


def _example(text: str, classes: Mapping[str, Part]) -> str:
    """Return the asyncio form of an example. Its statements move into a function if one of them waits."""
    parts = doctest.DocTestParser().get_examples(inspect.cleandoc(text))
    whole = [(one, part.want) for part in parts for one in ast.parse(part.source).body]
    imports = [_prompted(ast.unparse(one)) for one, _ in whole if isinstance(one, ast.Import | ast.ImportFrom)]
    imports = [one.replace("from dstack.api import", "from dstack.api.aio import") for one in imports]
    awaiting = Awaiting(classes, {})
    rest = [(awaiting.visit(one), want) for one, want in whole if not isinstance(one, ast.Import | ast.ImportFrom)]
    if not awaiting.has_waits:
        return "\n".join([*imports, *(_prompted(ast.unparse(one), want) for one, want in rest)])
    body = "\n".join(f"print({ast.unparse(one)})" if want else ast.unparse(one) for one, want in rest)
    if "close()" not in body:
        body = re.sub(r"^client = client\n", "", body.replace(CLIENT, "client"), flags=re.MULTILINE)
        body = f"async with {CLIENT} as client:\n{indent(body, ' ' * 4)}"
    main = f"async def main():\n{indent(body, ' ' * 4)}"
    printed = "".join(_printed(want) for _, want in rest)
    return "\n".join([">>> import asyncio", *imports, _prompted(main), _prompted("asyncio.run(main())", printed)])


def _printed(want: str) -> str:
    """Return the output of `print` for the value that Python shows in this way."""
    return f"{ast.literal_eval(want)}\n" if want.startswith(("'", '"')) else want


def _with_few_brackets(node: ast.Call) -> ast.Call:
    """Return a call without the brackets that `ast.unparse` writes around a generator that is its only argument."""
    if len(node.args) == 1 and not node.keywords and isinstance(node.args[0], ast.GeneratorExp):
        node.args = [ast.Name(ast.unparse(node.args[0])[1:-1])]
    return node


def _prompted(code: str, want: str = "") -> str:
    return "\n".join([f">>> {code}".replace("\n", "\n... "), *want.splitlines()])
