"""A judge of the prose in a module: its docstrings, its comments, and the texts that users read."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SENTENCE_WORDS = 25

Kind = Literal["prose", "texts"]
"""Docstrings and comments are for those who read the code; texts are for those who use the program."""

WORDS = {
    r"\b(he|him|his|himself|she|hers?|herself)\b": "a machine is *it*; name people: the user, the caller",
    r"\b(nobody|somebody)\b": "name what it is: no process, another server, a user",
    r"\bwhoever\b": "name what it is: a client that …",
    r"\b(tell|tells|telling|told)\b": "report, return, show, distinguish",
    r"\b(say|says|saying|said)\b": "report, write, send, set, name",
    r"\b(see|sees|seeing|seen) to\b": "own, handle, manage",
    r"\banew\b": "again, from the start",
    r"\bgone\b": "missing, deleted, ended, disconnected",
    r"\b(is|are|was|were|be|been|being) over\b": "ended, finished",
    r"\bfor ever\b": "without end, permanently, forever",
    r"\blest\b": "so that … not",
    r"\b(is|are|was|were) (?-i:none)\b": "missing, does not exist; or: is not a …",
    r"\bhang(s|ing)? up on\b|\bhung up on\b": "disconnect",
    r"\b(has|have|had) none of\b": "lacks",
    r"(?<!there )\b(is|are|was|were) no (?!longer\b|more\b|such\b|less\b|larger\b)": "is not a …",
}
"""Words that the project does not use, and what it uses."""

HEADLESS = re.compile(r"(?:^|[:;] )(what|who|whoever|whatever|whose|whom)\b", re.IGNORECASE)
CAUSATIVE = re.compile(r"^have\b", re.IGNORECASE)
OPENINGS = re.compile(r"^(what|who|whose|where|whether|that|until|once|have|how|which)\b", re.IGNORECASE)
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples):$")
ITEM = re.compile(r"^ {4}\*{0,2}[\w.]+(?: or [\w.]+)?: +(.*)$")
BULLET = re.compile(r"^\s*(?:[*x+-]|\d+\.)\s+")
DIRECTIVE = re.compile(r"^#+\s*(noqa|type: |pragma|ruff: |mypy: |!)")
CODE = re.compile(r"`[^`]*`|\{[^}]*\}|\S+://\S+")
WORDLIKE = re.compile(r"(?:^|(?<=[\s(\"'—]))[A-Za-z][a-z]*(?:['’-][a-z]+)*(?=[\s.,;:!?)\"'—]|$)")
PROSE_WORDS = 3
"""A string with as many words of letters is a text; one with fewer is a name or a format."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of prose and its place."""

    line: int
    kind: Kind
    text: str
    is_opening: bool = False
    """Whether a function's or a class's docstring begins with it."""
    is_boolean: bool = False
    """Whether it describes something that is true or false."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault in a sentence."""

    line: int
    kind: Kind
    rule: str
    sentence: str


def findings(source: str) -> list[Finding]:
    """Return the faults in a module's prose, in the order of its lines."""
    found = [
        Finding(passage.line, passage.kind, rule, sentence)
        for passage in passages(source)
        for number, sentence in enumerate(sentences(passage.text))
        for rule in faults(sentence, is_opening=passage.is_opening and number == 0, is_boolean=passage.is_boolean)
    ]
    return sorted(found, key=lambda one: one.line)


def faults(sentence: str, *, is_opening: bool = False, is_boolean: bool = False) -> Iterator[str]:
    """Yield the rules that a sentence breaks.

    Args:
        sentence: one sentence; code in it stands in backticks.
        is_opening: whether a docstring begins with it.
        is_boolean: whether the docstring describes something that is true or false.
    """
    plain = CODE.sub("X", sentence)
    if (subject := HEADLESS.search(plain)) is not None:
        yield f"a noun as the subject, not `{subject[1]}`"
    elif is_opening and (opening := OPENINGS.match(plain)) is not None:
        if not (is_boolean and opening[1].lower() == "whether"):
            yield f"a docstring begins with a verb or a noun, not `{opening[1]}`"
    elif CAUSATIVE.match(plain):
        yield "name the action, not `have … done`"
    for pattern, better in WORDS.items():
        if (word := re.search(pattern, plain, re.IGNORECASE)) is not None:
            yield f"not `{word[0]}`, but: {better}"
    if (count := sum(any(map(str.isalnum, word)) for word in plain.split())) > SENTENCE_WORDS:
        yield f"{count} words in a sentence; at most {SENTENCE_WORDS}"


def sentences(text: str) -> list[str]:
    """Return a passage's sentences."""
    return [one for one in re.split(r"(?<=[.!?])\s+(?=[A-Z`\"'(*])", " ".join(text.split())) if one]


def passages(source: str) -> Iterator[Passage]:
    """Yield a module's docstrings by paragraph and argument, its comments, and its strings of several words."""
    module = ast.parse(source)
    docstrings: set[ast.Constant] = set()
    for owner, constant in _docstrings(module):
        docstrings.add(constant)
        yield from _of_docstring(owner, constant)
    yield from _texts(module, docstrings)
    yield from _comments(source)


def _docstrings(module: ast.Module) -> Iterator[tuple[ast.AST, ast.Constant]]:
    """Yield every string that stands as a statement, with the function, class or attribute that it is about."""
    for node in ast.walk(module):
        body = getattr(node, "body", None)
        before: ast.AST = node
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and _is_text(statement.value):
                assert isinstance(statement.value, ast.Constant)
                yield before, statement.value
            before = statement


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _of_docstring(owner: ast.AST, constant: ast.Constant) -> Iterator[Passage]:
    returned = getattr(owner, "returns", None) or getattr(owner, "annotation", None)
    is_boolean = isinstance(returned, ast.Name) and returned.id == "bool"
    is_named = isinstance(owner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    for number, (offset, text) in enumerate(_paragraphs(inspect.cleandoc(str(constant.value)))):
        yield Passage(constant.lineno + offset, "prose", text, is_named and number == 0, is_boolean)


def _paragraphs(docstring: str) -> Iterator[tuple[int, str]]:
    """Yield a docstring's paragraphs, list items and arguments, each with its line; examples are left out."""
    begun: list[str] = []
    at = 0
    section = ""
    for number, line in enumerate([*docstring.split("\n"), ""]):
        header = SECTION.match(line)
        is_example = section == "Examples" and (not line or line.startswith(" "))
        item = ITEM.match(line) if section in ("Args", "Attributes", "Raises") else None
        is_new = item is not None or BULLET.match(line) or (not section and line.startswith("  "))
        if begun and (header or not line.strip() or is_new):
            yield at, " ".join(begun)
            begun = []
        if header:
            section = header[1]
        elif line and not line.startswith(" ") and section:
            section = ""
        if header or is_example or not line.strip():
            continue
        at = at if begun else number
        begun.append(item[1] if item else BULLET.sub("", line).strip())


def _texts(module: ast.Module, docstrings: set[ast.Constant]) -> Iterator[Passage]:
    inside: set[ast.AST] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            inside.update(node.values)
            parts = [str(one.value) if isinstance(one, ast.Constant) else "`X`" for one in node.values]
            yield from _text(node.lineno, "".join(parts))
        elif _is_text(node) and node not in docstrings and node not in inside:
            assert isinstance(node, ast.Constant)
            yield from _text(node.lineno, str(node.value))


def _text(line: int, text: str) -> Iterator[Passage]:
    for paragraph in text.split("\n"):
        if len(WORDLIKE.findall(CODE.sub(" ", paragraph))) >= PROSE_WORDS:
            yield Passage(line, "texts", paragraph.lstrip(" ;:,."))


def _comments(source: str) -> Iterator[Passage]:
    """Yield comments; lines that stand below each other are one."""
    begun: list[str] = []
    at = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or DIRECTIVE.match(token.string):
            continue
        is_alone = token.line.lstrip().startswith("#")
        text = token.string.lstrip("# ").partition("  # ")[0]
        if begun and is_alone and token.start[0] == last + 1:
            begun.append(text)
        else:
            if begun:
                yield Passage(at, "prose", " ".join(begun))
            begun, at = [text], token.start[0]
        last = token.start[0] if is_alone else -1
    if begun:
        yield Passage(at, "prose", " ".join(begun))
