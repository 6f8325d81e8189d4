"""A reader of YAML: plain data, with the line and column of each part."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import yaml
from yaml.reader import ReaderError

from dstack.errors import ConfigurationError
from dstack.spec.mistakes import Mistake, Path

NODES_MAX = 100_000
CONFIGURATION = "a configuration: fields such as `type: task`"
_TEXT_ONLY = frozenset(
    (
        *("env", "commands", "init", "python", "user", "version", "tags", "registry_auth", "creds", "kubeconfig"),
        *("repos", "reservation", "volume_id", "headers"),
    )
)
"""Keys whose values stay text as written: `python: 3.10` is not a number, and `FLAG: on` not a boolean."""
_MERGE_TAG = "tag:yaml.org,2002:merge"
_DECIMAL = re.compile(r"[-+]?0[0-9]+")
"""A number with leading zeros: octal in YAML 1.1, but to people `cpu: 010` means ten."""
_PLAIN = tuple(
    (re.compile(found), said)
    for found, said in (
        (r"found character '\\t' that cannot start any token", "tabs cannot indent; use spaces"),
        (r"found character '(.)' that cannot start any token", r"text cannot begin with `\1`; put it in quotes"),
        (r"expected <block end>, but found .*", "the indentation does not fit the lines above"),
        (r"expected ',' or '(.)', but got .*", r"the bracket is not closed by `\1`"),
        (r"could not find expected ':'", "expected `NAME: VALUE`, with a space after the colon"),
        (r"found unexpected end of stream", "the quote is not closed"),
        (r"expected '<document start>', but found .*", "expected one document, found another after `...`"),
        (
            r"mapping values are not allowed here",
            "a `: ` cannot stand here; correct the indentation, or put the text in quotes",
        ),
    )
)
"""The parser's messages, and those that replace them."""
_FOUND_LATE = ("expected ',' or", "could not find expected ':'", "found unexpected end of stream")
"""The parser's messages about a part whose beginning is the mistake's place: the parser notices it lines later."""
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a YAML text, with the place of each part."""

    filename: str
    data: object
    places: dict[Path, tuple[int, int]]

    def lines_of(self, mistakes: Iterable[Mistake]) -> list[str]:
        """Return each mistake as `file:line:column: text`, in the order of their places."""
        ordered = sorted(mistakes, key=lambda mistake: self._position_of(mistake.path))
        return [f"{self._place_of(one.path)}: {one.text}" for one in ordered]

    def refusal_of(self, mistakes: Iterable[Mistake]) -> ConfigurationError:
        """Return the error that lists all mistakes with their places."""
        lines = self.lines_of(mistakes)
        heading = [f"{self.filename} has {len(lines)} mistakes"] if len(lines) > 1 else []
        return ConfigurationError("\n".join([*heading, *lines]))

    def _place_of(self, path: Path) -> str:
        """Return the `file:line:column` of a part, or of the nearest part around it."""
        line, column = self._position_of(path)
        return f"{self.filename}:{line}:{column}"

    def _position_of(self, path: Path) -> tuple[int, int]:
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def read_yaml(text: str, filename: str, expected: str = CONFIGURATION) -> Document:
    """Return the document in a YAML text.

    Args:
        expected: the contents that an empty file lacks.

    Raises:
        ConfigurationError: the text is not YAML, has several documents, or uses tags. Contains the place.
    """
    reader = _Reader(filename)
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise reader.refuse(_mark(error, text), _problem(error)) from None
    except RecursionError:
        raise reader.refuse(None, "this is nested too deeply") from None
    if len(nodes) > 1:
        raise reader.refuse(nodes[1].start_mark, "expected one document, found another after `---`")
    if not nodes or nodes[0] is None:
        raise reader.refuse(None, f"expected {expected}, found an empty file")
    try:
        data = reader.plain(nodes[0], ())
    except RecursionError:
        raise reader.refuse(nodes[0].start_mark, "this is nested too deeply, or refers to itself") from None
    return Document(filename, data, reader.places)


def _mark(error: yaml.YAMLError, text: str) -> "yaml.Mark | None":
    if isinstance(error, ReaderError):  # for a bad character, with its index only
        before = text[: error.position]
        return yaml.Mark("", error.position, before.count("\n"), len(before) - before.rfind("\n") - 1, None, 0)
    problem = getattr(error, "problem", None) or ""
    began = getattr(error, "context_mark", None)
    is_open = any(words in problem for words in _FOUND_LATE)
    return began if is_open and began is not None else getattr(error, "problem_mark", None)


def _problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    plain = str(problem).replace("'\\x00'", "the end of the text")
    for found, said in _PLAIN:
        plain = found.sub(said, plain)
    return plain if plain.startswith("expected one document") else f"this is not YAML: {plain}"


class _Reader:
    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._nodes = 0
        self.places: dict[Path, tuple[int, int]] = {(): (1, 1)}

    def refuse(self, mark: "yaml.Mark | None", text: str) -> ConfigurationError:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        return ConfigurationError(f"{self._filename}:{line}:{column}: {text}")

    def plain(self, node: yaml.Node, path: Path) -> object:
        self._count(node)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
            raise self.refuse(node.start_mark, f"expected a plain list or mapping, found the tag `{node.tag}`")
        self.places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self.plain(item, (*path, index)) for index, item in enumerate(node.value)]
            case _:
                return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        data: dict[str, object] = {}
        for key, (key_node, value_node) in self._fields(node).items():
            self.places[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            data[key] = self.plain(value_node, (*path, key))
        return data

    def _fields(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the nodes of each field's name and value. A mapping's own fields override those of merge keys."""
        fields: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        sources: list[yaml.Node] = []
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.refuse(key_node.start_mark, "expected a field's name, found a list or a mapping")
            if key_node.tag == _MERGE_TAG:
                sources += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            elif key in fields:
                raise self.refuse(key_node.start_mark, f"the field `{key}` is written twice")
            else:
                fields[key] = key_node, value_node
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise self.refuse(source.start_mark, "expected a mapping for the merge key `<<`, such as `*common`")
            self._count(source, 1 + len(source.value))
            fields = {**self._fields(source), **fields}
        return fields

    def _count(self, node: yaml.Node, parts: int = 1) -> None:
        self._nodes += parts
        if self._nodes > NODES_MAX:
            raise self.refuse(node.start_mark, f"this has more than {NODES_MAX} parts")

    def _scalar(self, node: yaml.Node, path: Path) -> object:
        text: str = node.value
        match node.tag.rpartition(":")[2]:
            case "null":
                return None
            case "str" | "timestamp" | "value" | "merge":
                return text
            case "bool" | "int" | "float" as kind:
                # In YAML `8000:22` is a number to the base of 60; to people it means two ports.
                if _is_text(path) or ":" in text:
                    return text
                return _number_or_truth(kind, text)
            case _:
                raise self.refuse(node.start_mark, f"expected a plain value, found the tag `{node.tag}`")


def _is_text(path: Path) -> bool:
    return not _TEXT_ONLY.isdisjoint(path) or (path[:1] == ("profiles",) and path[-1] == "name")


def _number_or_truth(kind: str, text: str) -> object:
    if kind == "int" and _DECIMAL.fullmatch(text):
        return int(text)
    loader = yaml.SafeLoader("")
    node = yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text)
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError, IndexError):
        return text  # an explicit tag that does not fit the value, such as `!!int x`
    finally:
        loader.dispose()
