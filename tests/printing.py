"""A job that prints lines which tell by their text where in the log they belong: ten bytes each, the line's number."""

import sys

LINE_BYTES = 10
AT_ONCE = 1000

_PROGRAM = """
import sys
for first in range({start}, {end}, {step}):
    last = min(first + {step}, {end})
    sys.stdout.buffer.write(b"".join(b"%09d\\n" % (number % 10**9) for number in range(first, last)))
"""


def numbered(start: int, end: int) -> bytes:
    """The bytes of the log from one offset up to another."""
    first, last = start // LINE_BYTES, -(-end // LINE_BYTES)
    whole = b"".join(b"%09d\n" % number for number in range(first, last))
    return whole[start - first * LINE_BYTES : end - first * LINE_BYTES]


def printing(size: int, start: int = 0, python: str = sys.executable) -> str:
    """A command that prints that many bytes (or a few more, up to the end of a line) of the log, as of an offset."""
    program = _PROGRAM.format(start=start // LINE_BYTES, end=-(-(start + size) // LINE_BYTES), step=AT_ONCE)
    return f"{python} -c '{program}'"
