"""Bounds of all that an agent sends: no message of it makes a server keep more."""

from dataclasses import replace
from typing import Any, TypeVar

from dstack.kit.plain import field_names
from dstack.protocol.agent.points import TIME_MAX

T = TypeVar("T")

TEXT_CHARS_MAX = 4096
"""Of a text that is a path, a key or a version,"""
CHARS_MAX = {"job_id": 36, "id": 128, "state": 36, "end": 36, "address": 45}
"""and of these. The store's column takes no longer id of a job."""
PROSE = frozenset({"message", "hint", "engine_problem", "unready_reason"})
"""The texts for people, which are cut instead of refused,"""
PROSE_CHARS_MAX = 2000
"""at this length."""
SHORT_CHARS = min(CHARS_MAX.values())
"""A text of this length is within every bound."""
ITEMS_MAX = 256
"""Of a list. No engine takes an image of more layers, and no host has more cards or versions of Python."""
REPORTS = "jobs"
"""The one list that only the length of a frame bounds."""
NUMBER_MAX = (1 << 53) - 1
"""JSON has larger ones, and no store takes them. Nothing that an agent counts is negative."""
NUMBERS_MAX = {
    **dict.fromkeys(("at", "started_at", "ended_at", "alone_since"), TIME_MAX),
    **dict.fromkeys(("exit_code", "signal"), 255),
    "port": 65535,
    "guests": (1 << 31) - 1,
}


def bounded(message: T) -> T:
    """Return a message, a dataclass, with its texts for people cut.

    Raises:
        ValueError: another part is beyond its bound.
    """
    changes: dict[str, Any] = {}
    for name in field_names(type(message)):
        part = getattr(message, name)
        if part is None or part is False or part is True:
            continue
        kind = type(part)
        if kind is str:
            if len(part) <= SHORT_CHARS:
                continue
            changed = _cut(name, part)
        elif kind is int or kind is float:
            if 0 <= part <= NUMBERS_MAX.get(name, NUMBER_MAX):  # which no NaN is
                continue
            raise ValueError(f"`{name}` cannot be {part}")
        else:
            changed = _bounded_part(name, part)
        if changed is not part:
            changes[name] = changed
    return replace(message, **changes) if changes else message  # type: ignore[type-var]


def _cut(name: str, text: str) -> str:
    if name in PROSE:
        return text if len(text) <= PROSE_CHARS_MAX else text[: PROSE_CHARS_MAX - 1] + "…"
    if len(text) > CHARS_MAX.get(name, TEXT_CHARS_MAX):
        raise ValueError(f"`{name}` cannot have {len(text)} characters")
    return text


def _bounded_part(name: str, part: Any) -> Any:  # fields may have any type
    if isinstance(part, dict):
        return part  # an order or points, which are judged as they are read
    if not isinstance(part, tuple):
        return bounded(part)
    if len(part) > ITEMS_MAX and name != REPORTS:
        raise ValueError(f"`{name}` cannot have {len(part)} items")
    return tuple(_cut(name, one) if isinstance(one, str) else bounded(one) for one in part)
