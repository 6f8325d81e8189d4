"""Conversion of text and JSON to configurations, and back. All mistakes are reported at once, with their places."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from dstack.errors import ConfigurationError
from dstack.kit.text import listed, nearest, shown
from dstack.spec.base import Spec
from dstack.spec.mistakes import MISPRINT, Mistake, Path, mistakes_in
from dstack.spec.secrets import FIELDS, names_in, refers_to, texts_with_secrets

if TYPE_CHECKING:
    from dstack.spec.configurations import Configuration, RunConfiguration
    from dstack.spec.profile import Profiles
    from dstack.spec.yaml import Document

RUN_ARGUMENTS = "`${{ run.args }}` is filled no more: write `$ARGS`, add `ARGS` to `env`, and give it with `-e ARGS=…`"

_AnySpec = TypeVar("_AnySpec", bound=Spec)


class Kinds(Mapping[str, type[_AnySpec]], Generic[_AnySpec]):
    """Classes of configurations by their `type`. Each is imported at its first use: most programs use one."""

    def __init__(self, homes: Mapping[str, tuple[str, str]]) -> None:
        self._homes = homes

    def __getitem__(self, kind: str) -> type[_AnySpec]:
        module, name = self._homes[kind]
        found: type[_AnySpec] = getattr(import_module(module), name)
        return found

    def __contains__(self, kind: object) -> bool:
        return kind in self._homes

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


_RUNS = {
    "task": ("dstack.spec.task", "Task"),
    "service": ("dstack.spec.service", "Service"),
    "dev-environment": ("dstack.spec.dev_environment", "DevEnvironment"),
}
_OTHERS = {
    "fleet": ("dstack.spec.fleet", "Fleet"),
    "gateway": ("dstack.spec.gateway", "Gateway"),
    "volume": ("dstack.spec.volume", "Volume"),
}

RUN_TYPES: "Kinds[RunConfiguration]" = Kinds(_RUNS)
"""Every run type by its `type`. A new run type needs a module and an entry in `_RUNS`."""

TYPES: "Kinds[Configuration]" = Kinds({**_RUNS, **_OTHERS})
"""Every class of configurations by its `type`."""


@dataclass(frozen=True, slots=True)
class Written:
    """A configuration from a text, and notes for its author, each as `file:line:column: note`."""

    configuration: "Configuration"
    notes: tuple[str, ...]


def read_configuration(text: str, filename: str) -> Written:
    """Return the configuration in a YAML text, with notes about old spellings.

    Args:
        text: the YAML text.
        filename: the name of the text in errors.

    Raises:
        ConfigurationError: lists every mistake as `file:line:column: what was expected and found`.
    """
    document = _document(text, filename)
    configuration = _placed(document, lambda: _build(document.data, TYPES))
    old = document.in_order(_old_spellings(configuration, document.data))
    return Written(configuration, tuple(f"{document.place_of(one.path)}: {one.text}" for one in old))


def parse_configuration(text: str, filename: str) -> "Configuration":
    """Return the configuration in a YAML text. Raises as `read_configuration`."""
    return read_configuration(text, filename).configuration


def parse_profiles(text: str, filename: str) -> "Profiles":
    """Return the profiles in a YAML text. Raises as `read_configuration`."""
    from dstack.spec.profile import Profiles

    document = _document(text, filename)
    return _placed(document, lambda: _validated(Profiles, document.data))


def configuration_of(mapping: Mapping[str, Any]) -> "RunConfiguration":
    """Return the run configuration in a JSON object.

    Raises:
        ConfigurationError: lists every mistake with its field.
    """
    return _named(lambda: _build(dict(mapping), RUN_TYPES))


def to_mapping(spec: Spec) -> dict[str, Any]:
    """Return a configuration as a JSON object with only the fields that were set or changed.

    Raises:
        ConfigurationError: a list or mapping was changed in place to an invalid value.
    """
    checked = _named(lambda: _validated(type(spec), spec.written()))
    written = checked.model_dump(mode="json", exclude_unset=True)
    kind = getattr(spec, "type", None)
    return written if kind is None else {"type": kind, **written}


def old_spellings(configuration: "Configuration") -> list[str]:
    """Return a note for each old spelling in a configuration, with the new one."""
    return [one.text for one in _old_spellings(configuration, configuration.written())]


class _Mistaken(Exception):
    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes


def _document(text: str, filename: str) -> "Document":
    from dstack.spec.yaml import read_yaml  # slow to import, and the Python API does not need it

    return read_yaml(text, filename)


def _named(build: Callable[[], _AnySpec]) -> _AnySpec:
    """Return the result of `build`; raises its mistakes with their fields."""
    try:
        return build()
    except _Mistaken as error:
        raise ConfigurationError("; ".join(one.with_path() for one in error.mistakes)) from None


def _placed(document: "Document", build: Callable[[], _AnySpec]) -> _AnySpec:
    """Return the result of `build`; raises its mistakes with their places in the document."""
    try:
        return build()
    except _Mistaken as error:
        lines = [f"{document.place_of(one.path)}: {one.text}" for one in document.in_order(error.mistakes)]
        heading = [f"{document.filename} has {len(lines)} mistakes"] if len(lines) > 1 else []
        raise ConfigurationError("\n".join([*heading, *lines])) from None


def _build(data: object, types: Mapping[str, type[_AnySpec]]) -> _AnySpec:
    if not isinstance(data, dict):
        raise _Mistaken([Mistake((), f"expected a configuration: fields such as `type: task`, found {shown(data)}")])
    kind = data.get("type")
    if isinstance(kind, str) and kind in types:
        return _validated(types[kind], data)
    _refuse_misprints(data)
    mistakes = [_no_type(kind, types)]
    if (guess := _nearest_type(kind, types)) is not None:
        try:
            _validated(types[guess], {**data, "type": guess})
        except _Mistaken as error:
            mistakes += error.mistakes
    raise _Mistaken(mistakes)


def _validated(kind: type[_AnySpec], data: object) -> _AnySpec:
    _refuse_misprints(data)
    mistakes = [] if not isinstance(data, dict) else list(_wrong_references(data))
    try:
        built = kind.model_validate(data)
    except ValidationError as error:
        raise _Mistaken([*mistakes_in(error), *mistakes]) from None
    if mistakes:
        raise _Mistaken(mistakes)
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
        raise _Mistaken(mistakes)


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


def _old_spellings(configuration: "Configuration", data: object) -> Iterator[Mistake]:
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
