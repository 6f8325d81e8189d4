"""When the bytes of a log came: sparse marks beside them."""

import struct
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from dstack.protocol.agent import LOG_TIME_EXACT_S

_MARK = struct.Struct("<Qd")
MARK_BYTES = _MARK.size


class Mark(NamedTuple):
    """From this byte on, what came at this time (seconds since the epoch) and later."""

    offset: int
    at: float

    def packed(self) -> bytes:
        """As it is stored."""
        return _MARK.pack(self.offset, self.at)


def marks_of(packed: bytes) -> Iterator[Mark]:
    """The marks that were stored; one that is not whole is left out."""
    return map(Mark._make, _MARK.iter_unpack(packed[: len(packed) - len(packed) % MARK_BYTES]))


def is_new(last: Mark | None, at: float) -> bool:
    """Whether bytes of this time get a mark of their own."""
    return last is None or at - last.at >= LOG_TIME_EXACT_S


def reaches(mark: Mark, start: datetime) -> bool:
    """Whether bytes of this mark may have been printed at `start` or later: what shares it may be that much younger."""
    return mark.at > start.timestamp() - LOG_TIME_EXACT_S


def thinned(marks: Iterable[Mark]) -> list[Mark]:
    """Those that are worth keeping."""
    kept: list[Mark] = []
    for mark in marks:
        if is_new(kept[-1] if kept else None, mark.at):
            kept.append(mark)
    return kept
