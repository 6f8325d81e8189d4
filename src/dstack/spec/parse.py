"""From text or JSON to a configuration, and back. Every mistake is named with its place, all at once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import ValidationError

from dstack.errors import ConfigurationError
from dstack.kit.text import listed, nearest, shown
from dstack.spec.mistakes import Mistake, Path, mistakes_in
from dstack.spec.task import Task

Configuration: TypeAlias = Task

RUN_TYPES: dict[str, type[Configuration]] = {"task": Task}
"""Every run type by its `type`. A new one is a file and an entry here."""

_MISPRINT = re.compile("[\0\ud800-\udfff]")


def parse_configuration(text: str, filename: str) -> Configuration:
    """The configuration in a YAML text.

    Args:
        filename: what to call the text in errors.

    Raises:
        ConfigurationError: lists every mistake as `file:line:column: what was expected and found`.
    """
    from dstack.spec.yaml import read_yaml  # YAML takes long to import, and the Python API does without

    document = read_yaml(text, filename)
    try:
        return _build(document.data)
    except _Mistaken as error:
        raise ConfigurationError(
            "\n".join(f"{document.place_of(one.path)}: {one.text}" for one in document.in_order(error.mistakes)),
            hint="Correct the file and try again",
        ) from None


def configuration_of(mapping: Mapping[str, Any]) -> Configuration:
    """The configuration in a JSON object.

    Raises:
        ConfigurationError: lists every mistake with the field it is in.
    """
    try:
        return _build(dict(mapping))
    except _Mistaken as error:
        raise ConfigurationError("; ".join(one.with_path() for one in error.mistakes)) from None


def to_mapping(configuration: Configuration) -> dict[str, Any]:
    """The configuration as a JSON object that holds only what was written."""
    written = configuration.model_dump(mode="json", exclude_unset=True)
    return {"type": configuration.type, **written}


class _Mistaken(Exception):
    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes


def _build(data: object) -> Configuration:
    if not isinstance(data, dict):
        raise _Mistaken([Mistake((), "expected a configuration: fields such as `type: task`, found something else")])
    if misprints := list(_misprints_in(data)):
        raise _Mistaken(misprints)
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in RUN_TYPES:
        raise _Mistaken([_no_type(kind)])
    try:
        return RUN_TYPES[kind].model_validate(data)
    except ValidationError as error:
        raise _Mistaken(mistakes_in(error)) from None


def _misprints_in(data: object) -> Iterator[Mistake]:
    """Characters that neither a file nor a program's argument can hold."""
    todo: list[tuple[Path, object]] = [((), data)]
    while todo:
        path, part = todo.pop()
        if isinstance(part, dict):
            todo += [(path, key) for key in part] + [((*path, key), value) for key, value in part.items()]
        elif isinstance(part, list):
            todo += [((*path, index), value) for index, value in enumerate(part)]
        elif isinstance(part, str) and (found := _MISPRINT.search(part)):
            yield Mistake(path, f"expected text that can be written down, found the character U+{ord(found[0]):04X}")


def _no_type(kind: object) -> Mistake:
    if kind is None:
        return Mistake((), f"expected a field `type`, one of {listed(RUN_TYPES)}, found none")
    guess = nearest(kind, RUN_TYPES) if isinstance(kind, str) else None
    advice = f"did you mean `{guess}`?" if guess else f"known are {listed(RUN_TYPES)}"
    return Mistake(("type",), f"there is no run type {shown(kind)}; {advice}")
