"""Dataclasses as plain data, as JSON has it."""

from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any


def to_plain(value: Any) -> Any:  # whatever stands in the fields
    """A dataclass as a dictionary, with what is inside it. Unlike `dataclasses.asdict` it copies nothing else."""
    if isinstance(value, tuple):
        return [to_plain(one) for one in value]
    if is_dataclass(value):
        return {name: to_plain(getattr(value, name)) for name in _names(type(value))}
    return value


@cache
def _names(kind: Hashable) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind)  # type: ignore[arg-type])
