"""Dataclasses as plain data, as JSON has it."""

from typing import Any


def to_plain(value: Any) -> Any:  # whatever stands in the fields
    """A dataclass as a dictionary, with what is inside it. Unlike `dataclasses.asdict` it copies nothing else."""
    if isinstance(value, tuple):
        return [to_plain(one) for one in value]
    names = getattr(type(value), "__dataclass_fields__", None)
    return value if names is None else {name: to_plain(getattr(value, name)) for name in names}
