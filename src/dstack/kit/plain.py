"""Dataclasses as plain data, as JSON has it."""

from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_HINTS: dict[type, dict[str, Any]] = {}
"""The types of a dataclass's fields: finding them takes longer than reading them."""

_DEFAULTS: dict[type, dict[str, Any]] = {}
"""The default of each field of a dataclass that was asked for."""

_NAMES: dict[type, tuple[str, ...]] = {}
"""The fields of each dataclass that was asked for: finding them takes longer than reading them."""


def to_plain(value: Any) -> Any:  # fields may have any type
    """A dataclass as a dictionary, with what is inside it. Unlike `dataclasses.asdict` it copies nothing else."""
    kind = type(value)
    if kind is tuple:
        return [to_plain(one) for one in value]
    if not hasattr(kind, "__dataclass_fields__"):
        return value
    return {name: to_plain(getattr(value, name)) for name in field_names(kind)}


def field_names(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields."""
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(one.name for one in fields(kind))
    return names


def to_short(value: Any) -> Any:  # fields may have any type
    """Return a dataclass as `to_plain` does, without the fields that have their default value."""
    kind = type(value)
    if kind is tuple:
        return [to_short(one) for one in value]
    if not hasattr(kind, "__dataclass_fields__"):
        return value
    parts = {name: getattr(value, name) for name in _defaults_of(kind)}
    return {name: to_short(part) for name, part in parts.items() if part != _DEFAULTS[kind][name]}


def _defaults_of(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass with their defaults; `MISSING` for a field without a default."""
    known = _DEFAULTS.get(kind)
    if known is None:
        known = _DEFAULTS[kind] = {
            one.name: one.default if one.default_factory is MISSING else one.default_factory() for one in fields(kind)
        }
    return known


def from_plain(kind: type[T], body: object, *, whole: bool = False) -> T:
    """A dataclass out of plain data, with what is inside it. Fields that only a newer version knows are left out.

    Args:
        whole: refuse unknown fields instead.

    Raises:
        ValueError: a field is missing, unknown while `whole`, or of another type.

    Examples:
        >>> from dstack.protocol.agent import Engine
        >>> from_plain(Engine, {"name": "docker", "version": "27.0", "machine": "x86_64"}).machine
        'x86_64'
        >>> from_plain(Engine, {"name": "docker", "version": 27, "machine": "x86_64"})
        Traceback (most recent call last):
            ...
        ValueError: 27 is not a `str`
    """
    if not isinstance(body, dict):
        raise ValueError(f"{body!r:.100} is not a `{kind.__name__}`")
    hints = _HINTS.get(kind)
    if hints is None:
        hints = _HINTS[kind] = get_type_hints(kind)
    if whole and (unknown := body.keys() - hints.keys()):
        raise ValueError(f"`{kind.__name__}` has no field `{min(map(str, unknown)):.50}`")
    try:
        return kind(**{name: _checked(hints[name], value, whole) for name, value in body.items() if name in hints})
    except TypeError as error:
        raise ValueError(str(error)) from error


def _checked(hint: Any, value: object, whole: bool) -> Any:  # fields may have any type
    """The value, which must be of the type that an annotation names."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is UnionType:
        return None if value is None else _checked(next(one for one in args if one is not type(None)), value, whole)
    if is_dataclass(origin):
        return from_plain(hint, value, whole=whole)
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_checked(args[0], one, whole) for one in value)
    if origin is dict and isinstance(value, dict):
        return {_checked(args[0], key, whole): _checked(args[1], one, whole) for key, one in value.items()}
    if origin is float and type(value) in (int, float):
        return value
    if origin is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not origin and origin is not Any:
        raise ValueError(f"{value!r:.100} is not a `{origin.__name__}`")
    return value
