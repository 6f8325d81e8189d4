"""Gaps: what of a log is lost. Its bytes keep their offsets for ever, so what is lost has offsets, too."""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_GAP = struct.Struct("<QQ")


class Gap(NamedTuple):
    """The bytes from `start` up to `end`."""

    start: int
    end: int


def gaps_of(packed: bytes) -> list[Gap]:
    """The gaps that `packed_gaps` made bytes of."""
    return [*map(Gap._make, _GAP.iter_unpack(packed))]


def packed_gaps(gaps: Iterable[Gap]) -> bytes:
    """As they are stored."""
    return b"".join(_GAP.pack(*gap) for gap in gaps)


def with_gap(gaps: Iterable[Gap], more: Gap) -> list[Gap]:
    """The gaps in order, those that touch each other made one.

    Examples:
        >>> with_gap([Gap(10, 20), Gap(40, 50)], Gap(0, 15))
        [Gap(start=0, end=20), Gap(start=40, end=50)]
    """
    joined: list[Gap] = []
    for gap in sorted([*gaps, more]):
        if joined and gap.start <= joined[-1].end:
            joined[-1] = Gap(joined[-1].start, max(joined[-1].end, gap.end))
        else:
            joined.append(gap)
    return joined


def passed(gaps: Iterable[Gap], offset: int) -> int:
    """The first offset at `offset` or after it that lies in no gap."""
    return next((gap.end for gap in gaps if gap.start <= offset < gap.end), offset)


def lost_bytes(gaps: Iterable[Gap]) -> int:
    """How much is lost."""
    return sum(gap.end - gap.start for gap in gaps)


def surplus_end(size: int, gaps: Sequence[Gap], keep_bytes: int) -> int:
    """Up to which offset a log has to go, so that no more than its newest `keep_bytes` stay.

    Args:
        size: where the log ends; `gaps` are in order, and do not touch.

    Examples:
        >>> surplus_end(100, [], 30), surplus_end(100, [Gap(80, 90)], 30), surplus_end(100, [Gap(0, 80)], 30)
        (70, 60, 0)
    """
    end = size
    for gap in reversed(gaps):
        if end - gap.end >= keep_bytes:
            return end - keep_bytes
        keep_bytes -= end - gap.end
        end = gap.start
    return max(0, end - keep_bytes)
