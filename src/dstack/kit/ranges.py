"""Ranges such as `2..8`, `8GB..`, `..4`."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, get_args

from dstack.kit.text import shown
from dstack.kit.units import parsed_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

T = TypeVar("T", bound=float)
COUNT_MAX = 1_000_000_000
_COUNT = re.compile(r"[0-9]{1,10}")


class Range(Generic[T]):
    """A closed range that does not change; None is open. Ends may be text, such as `8GB`, until a field reads them.

    Examples:
        >>> str(Range(2, None)), Range.parse("2..8", parse_count).max, Range(1, 4).contains(5)
        ('2..', 8, False)
    """

    # Not a dataclass: Pydantic would read those by its own rules instead of by `parse`.
    __slots__ = ("_max", "_min")

    def __init__(self, min: T | None = None, max: T | None = None) -> None:
        if min is None and max is None:
            raise ValueError("expected a range such as `2..8`, `2..` or `..8`, found one without any end")
        self._min, self._max = min, max
        if isinstance(min, int | float) and isinstance(max, int | float) and min > max:
            raise ValueError(f"expected a range whose end is not below its start, found `{self}`")

    @property
    def min(self) -> T | None:
        """The least value inside."""
        return self._min

    @property
    def max(self) -> T | None:
        """The greatest value inside."""
        return self._max

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Range) and (self.min, self.max) == (other.min, other.max)

    def __hash__(self) -> int:
        return hash((self.min, self.max))

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # it does not change, and Pydantic copies every default

    def __repr__(self) -> str:
        return f"Range({self.min!r}, {self.max!r})"

    @classmethod
    def parse(cls, value: object, item: Callable[[object], T]) -> "Range[T]":
        """Read `a..b`, `a..`, `..b`, `a`, a mapping with `min` and `max`, or a single value.

        Raises:
            ValueError: the value is not a range, or `item` does not read one of its ends.
        """
        match value:
            case Range():
                return cls(*(None if end is None else item(end) for end in (value.min, value.max)))
            case {**ends} if ends and set(ends) <= {"min", "max"}:
                return cls(*(None if ends.get(key) is None else item(ends[key]) for key in ("min", "max")))
            case str() if ".." in value:
                start, _, end = (part.strip() for part in value.partition(".."))
                return cls(item(start) if start else None, item(end) if end else None)
            case _:
                only = item(value)
                return cls(only, only)

    def contains(self, value: T) -> bool:
        """Whether `value` lies inside."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        if self.min == self.max:
            return str(self.min)
        return f"{'' if self.min is None else self.min}..{'' if self.max is None else self.max}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        (kind,) = get_args(source) or (int,)
        item: Callable[[object], Any] = getattr(kind, "parse", parse_count)
        return parsed_schema(lambda value: cls.parse(value, item))

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "object"}], "examples": ["2..8"]}


def parse_count(value: object) -> int:
    """Return a whole number that is not negative.

    Raises:
        ValueError: the value is not a whole number, or negative.
    """
    count = value
    if isinstance(value, str) and _COUNT.fullmatch(value.strip()):
        count = int(value)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= COUNT_MAX:
        raise ValueError(f"expected a whole number or a range such as `2..8`, found {shown(value)}")
    return count
