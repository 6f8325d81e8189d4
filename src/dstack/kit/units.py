"""Sizes of memory and spans of time, as people write them."""

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from dstack.kit.text import shown

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(MB|GB|TB)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]{1,30})\s*([smhdw]?)", re.IGNORECASE)
_GB_IN = {"MB": 1 / 1024, "GB": 1.0, "TB": 1024.0}
MEMORY_MAX_GB = 1 << 30
DURATION_MAX_S = 100 * 365 * 86_400
_SECONDS_IN = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Memory(float):
    """A size of memory or disk: a number of gigabytes, 1024-based, or text such as `512MB`.

    Examples:
        >>> Memory("512MB") == 0.5, str(Memory(8)), Memory(1.5).mib
        (True, '8GB', 1536)
    """

    def __new__(cls, size: float | str = 0.0) -> "Memory":
        """As `parse` where it is text."""
        return super().__new__(cls, cls.parse(size) if isinstance(size, str) else size)

    @classmethod
    def parse(cls, value: object) -> "Memory":
        """Read `8GB`, `512MB`, `1TB` in any case; a bare number is gigabytes.

        Raises:
            ValueError: the value is not a size.
        """
        size_gb = cls._gb_of(value)
        if size_gb is None:
            raise ValueError(f"expected a size such as `8GB`, `512MB` or `1TB`, found {shown(value)}")
        if size_gb > MEMORY_MAX_GB:
            raise ValueError(f"expected at most `{cls(MEMORY_MAX_GB)}`, found {shown(value)}")
        return cls(size_gb)

    @staticmethod
    def _gb_of(value: object) -> float | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return value
        match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
        return None if match is None else float(match[1]) * _GB_IN[(match[2] or "GB").upper()]

    @property
    def mib(self) -> int:
        """Whole MiB."""
        return round(self * 1024)

    def __str__(self) -> str:
        for unit, gb in (("TB", 1024.0), ("GB", 1.0)):
            if self >= gb and float(self / gb).is_integer():
                return f"{int(self / gb)}{unit}"
        if float(self * 1024).is_integer():
            return f"{int(self * 1024)}MB"
        return f"{Decimal(repr(float(self))):f}GB"

    __repr__ = __str__

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["8GB"]}


def parsed_schema(parse: Any, write: Any = str) -> "CoreSchema":
    """Return how Pydantic handles a value with a grammar of its own: `parse` reads it, `write` makes JSON of it."""
    from pydantic_core import core_schema

    return core_schema.no_info_plain_validator_function(
        parse, serialization=core_schema.plain_serializer_function_ser_schema(write, when_used="json")
    )


def parse_duration(value: object) -> int:
    """Return the seconds of `90`, `90s`, `15m`, `2h`, `1d`, `1w`.

    Raises:
        ValueError: the value is not a duration.

    Examples:
        >>> parse_duration("2h")
        7200
    """
    seconds = _seconds_of(value)
    if seconds is None:
        raise ValueError(f"expected a duration such as `90s`, `15m`, `2h` or `1d`, found {shown(value)}")
    if seconds > DURATION_MAX_S:
        raise ValueError(f"expected at most `{duration_text(DURATION_MAX_S)}`, found {shown(value)}")
    return seconds


def _seconds_of(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return None if match is None else int(match[1]) * _SECONDS_IN[match[2].lower()]


def duration_text(seconds: int) -> str:
    """The shortest spelling that `parse_duration` reads back to the same.

    Examples:
        >>> duration_text(7200), duration_text(90)
        ('2h', '90s')
    """
    for unit in ("w", "d", "h", "m"):
        if seconds and seconds % _SECONDS_IN[unit] == 0:
            return f"{seconds // _SECONDS_IN[unit]}{unit}"
    return f"{seconds}s"
