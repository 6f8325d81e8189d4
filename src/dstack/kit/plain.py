"""Dataclasses as plain data, as JSON has it."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_HINTS: dict[type, dict[str, Any]] = {}
"""The types of a dataclass's fields: finding them takes longer than reading them."""

_NAMES: dict[type, tuple[str, ...]] = {}
"""The fields of each dataclass that was asked for: finding them takes longer than reading them."""


def to_plain(value: Any) -> Any:  # fields may have any type
    """A dataclass as a dictionary, with what is inside it. Unlike `dataclasses.asdict` it copies nothing else."""
    kind = type(value)
    if kind is tuple:
        return [to_plain(one) for one in value]
    if not hasattr(kind, "__dataclass_fields__"):
        return value
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(one.name for one in fields(value))
    return {name: to_plain(getattr(value, name)) for name in names}


def from_plain(kind: type[T], body: object) -> T:
    """A dataclass out of plain data, with what is inside it. Fields that only a newer version knows are left out.

    Raises:
        ValueError: a field is missing, or of another type.

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
    try:
        return kind(**{name: _checked(hints[name], value) for name, value in body.items() if name in hints})
    except TypeError as error:
        raise ValueError(str(error)) from error


def _checked(hint: Any, value: object) -> Any:  # fields may have any type
    """The value, which must be of the type that an annotation names."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is UnionType:
        return None if value is None else _checked(next(one for one in args if one is not type(None)), value)
    if is_dataclass(origin):
        return from_plain(hint, value)
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_checked(args[0], one) for one in value)
    if origin is dict and isinstance(value, dict):
        return {_checked(args[0], key): _checked(args[1], one) for key, one in value.items()}
    if origin is float and type(value) in (int, float):
        return value
    if origin is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not origin:
        raise ValueError(f"{value!r:.100} is not a `{origin.__name__}`")
    return value
