"""Conversion of text and JSON to configurations, and back. All mistakes are reported at once, with their places."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from dstack.kit.text import listed, nearest, shown
from dstack.spec.base import Spec
from dstack.spec.kinds import RUN_TYPES, TYPES
from dstack.spec.mistakes import MISPRINT, Mistake, Mistaken, Path
from dstack.spec.secrets import FIELDS, names_in, refers_to, texts_with_secrets
from dstack.spec.validation import mistakes_in

if TYPE_CHECKING:
    from dstack.spec.configurations import Configuration, RunConfiguration

RUN_ARGUMENTS = "`${{ run.args }}` is filled no more: write `$ARGS`, add `ARGS` to `env`, and give it with `-e ARGS=…`"

_AnySpec = TypeVar("_AnySpec", bound=Spec)


def parse_configuration(text: str, filename: str) -> "Configuration":
    """Return the configuration in a YAML text.

    Args:
        text: the YAML text.
        filename: the name of the text in errors.

    Raises:
        ConfigurationError: lists every mistake as `file:line:column: what was expected and found`.
    """
    from dstack.spec.yaml import read_yaml  # slow to import, and the Python API does not need it

    document = read_yaml(text, filename)
    try:
        return build(document.data, TYPES)
    except Mistaken as error:
        raise document.refusal_of(error.mistakes) from None


def configuration_of(mapping: Mapping[str, Any]) -> "RunConfiguration":
    """Return the run configuration in a JSON object.

    Raises:
        ConfigurationError: lists every mistake with its field.
    """
    try:
        return build(dict(mapping), RUN_TYPES)
    except Mistaken as error:
        raise error.with_fields() from None


def to_mapping(spec: Spec) -> dict[str, Any]:
    """Return a configuration as a JSON object with only the fields that were set or changed.

    Raises:
        ConfigurationError: a list or mapping was changed in place to an invalid value.
    """
    try:
        checked = validated(type(spec), spec.written())
    except Mistaken as error:
        raise error.with_fields() from None
    written = checked.model_dump(mode="json", exclude_unset=True)
    kind = getattr(spec, "type", None)
    return written if kind is None else {"type": kind, **written}


def build(data: object, types: Mapping[str, type[_AnySpec]]) -> _AnySpec:
    """Return the configuration in plain data, of one of some types. Raises `Mistaken`."""
    if not isinstance(data, dict):
        raise Mistaken([Mistake((), f"expected a configuration: fields such as `type: task`, found {shown(data)}")])
    kind = data.get("type")
    if isinstance(kind, str) and kind in types:
        return validated(types[kind], data)
    _refuse_misprints(data)
    mistakes = [_no_type(kind, types)]
    if (guess := _nearest_type(kind, types)) is not None:
        try:
            validated(types[guess], {**data, "type": guess})
        except Mistaken as error:
            mistakes += error.mistakes
    raise Mistaken(mistakes)


def validated(kind: type[_AnySpec], data: object) -> _AnySpec:
    """Return a part of a configuration in plain data. Raises `Mistaken`."""
    _refuse_misprints(data)
    mistakes = [] if not isinstance(data, dict) else list(_wrong_references(data))
    try:
        built = kind.model_validate(data)
    except ValidationError as error:
        raise Mistaken([*mistakes_in(error), *mistakes]) from None
    if mistakes:
        raise Mistaken(mistakes)
    return built


def _wrong_references(data: Mapping[str, Any]) -> Iterator[Mistake]:
    for path, text in texts_with_secrets(data):
        try:
            if refers_to(text, "run"):
                raise ValueError(RUN_ARGUMENTS)
            names_in(text)
        except ValueError as error:
            yield Mistake(path, str(error))
    for path, text in _texts_in(data):
        if path and path[0] in FIELDS:
            continue
        if refers_to(text, "secrets"):
            yield Mistake(path, "secrets are filled in `env` and `registry_auth`; pass it by `env`")
        if refers_to(text, "run"):
            yield Mistake(path, RUN_ARGUMENTS)


def _refuse_misprints(data: object) -> None:
    if mistakes := list(_misprints_in(data)):
        raise Mistaken(mistakes)


def _misprints_in(data: object) -> Iterator[Mistake]:
    for path, text in _texts_in(data):
        if found := MISPRINT.search(text):
            yield Mistake(path, f"expected text that can be written down, found the character U+{ord(found[0]):04X}")


def _texts_in(data: object) -> Iterator[tuple[Path, str]]:
    """Yield every text with its path. The path of a field's name is that of its mapping."""
    todo: list[tuple[Path, object]] = [((), data)]
    while todo:
        path, part = todo.pop()
        if isinstance(part, dict):
            todo += [(path, key) for key in part] + [((*path, key), value) for key, value in part.items()]
        elif isinstance(part, list):
            todo += [((*path, index), value) for index, value in enumerate(part)]
        elif isinstance(part, str):
            yield path, part


def old_spellings(configuration: "Configuration", data: object) -> Iterator[Mistake]:
    """Yield a note for each old spelling in a configuration, with the new one.

    Args:
        configuration: the configuration.
        data: the plain data from which the configuration was made.
    """
    written = data if isinstance(data, dict) else {}
    for old, new in configuration.renamed.items():
        if old in written:
            yield Mistake((old,), f"`{old}` is the old name of `{new}`: write `{new}` instead")
    for old, advice in configuration.without_effect.items():
        if old in written:
            yield Mistake((old,), f"`{old}` no longer has an effect: {advice}")
    if written.get("termination_policy") == "dont-destroy":
        yield Mistake(("termination_policy",), "`termination_policy` is old: write `idle_duration: off` instead")
    elif "termination_policy" in written:
        yield Mistake(("termination_policy",), "`termination_policy` is old: `idle_duration` alone is enough")


def _no_type(kind: object, types: Mapping[str, object]) -> Mistake:
    if kind is None:
        return Mistake((), f"expected a field `type`, one of {listed(_working(types))}, found none{_later(types)}")
    guess = _nearest_type(kind, types)
    advice = f"did you mean `{guess}`?" if guess else f"known are {listed(_working(types))}{_later(types)}"
    what = "configuration" if types is TYPES else "run"
    return Mistake(("type",), f"there is no {what} type {shown(kind)}; {advice}")


def _working(types: Iterable[str]) -> list[str]:
    return [kind for kind in types if kind in RUN_TYPES]


def _later(types: Iterable[str]) -> str:
    later = [kind for kind in types if kind not in RUN_TYPES]
    return f"; {listed(later)} do not work yet" if later else ""


def _nearest_type(kind: object, types: Mapping[str, object]) -> str | None:
    return nearest(kind, types) if isinstance(kind, str) else None
