"""Dataclasses as plain data, as JSON has it."""

from dataclasses import fields
from typing import Any

_NAMES: dict[type, tuple[str, ...]] = {}
"""The fields of each dataclass that was asked for: finding them takes longer than reading them."""


def to_plain(value: Any) -> Any:  # whatever stands in the fields
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
