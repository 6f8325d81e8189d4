"""Small charts in one line of text, and numbers beside them."""

from collections.abc import Callable, Sequence
from typing import TextIO

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.,-=+*#"
"""For files, and for terminals without UTF-8."""
CARRIED_S = 60.0
"""A value holds for this long; a longer gap between values is blank."""

Values = Sequence[tuple[float, float | None]]
"""Times in seconds, ascending, and the values measured then; None is unknown."""
Draw = Callable[[Values, float], str]
"""Makes a chart of values, given the value that fills a column."""


def blocks_for(file: TextIO) -> str:
    """Return the characters for charts in a file, from low to high."""
    is_utf8 = (file.encoding or "").lower().replace("-", "") == "utf8"
    return BLOCKS if is_utf8 and file.isatty() else PLAIN


def chart(values: Values, width: int, top: float, blocks: str = BLOCKS) -> str:
    """Return the values over time as one line, from left to right.

    Each value has a column. More than `width` values share columns of equal time, and a column shows their mean.

    Args:
        top: the value that fills a column; zero is the lowest block.

    Examples:
        >>> chart([(0, 0.0), (10, 50.0), (20, None), (30, 100.0)], width=10, top=100)
        '▁▅ █'
    """
    columns = [value for _, value in values] if len(values) <= width else _columns(values, width)
    return "".join(" " if value is None else blocks[_level(value, top, len(blocks))] for value in columns)


def _level(value: float, top: float, levels: int) -> int:
    return min(levels - 1, int(value / top * levels)) if top > 0 else 0


def _columns(values: Values, width: int) -> list[float | None]:
    begin, end = values[0][0], values[-1][0]
    span_s = (end - begin) / width
    found: list[list[float]] = [[] for _ in range(width)]
    for at, value in values:
        if value is not None:
            found[min(width - 1, int((at - begin) / span_s))].append(value)
    columns: list[float | None] = []
    last, last_number = None, 0
    for number, some in enumerate(found):
        if some:
            last, last_number = sum(some) / len(some), number
        columns.append(last if (number - last_number) * span_s <= CARRIED_S else None)
    return columns
