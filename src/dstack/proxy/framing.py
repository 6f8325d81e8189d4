"""The end of a body: chunks in and out, read strictly."""

import re
from collections.abc import Sequence
from typing import TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]

SIZE_LINE_BYTES_MAX = 1024
"""Of the line before a chunk, with its extensions: these concern one hop only and do not go on."""
TRAILER_BYTES_MAX = 16 << 10

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class FramingError(ValueError):
    """Bytes that are not a body in chunks."""


class Chunked:
    """The reader of one body in chunks."""

    __slots__ = ("_held", "_left", "_state", "_trailer_bytes", "trailers")

    def __init__(self) -> None:
        self._state = _SIZE
        self._held = b""
        """The start of a line whose end is missing."""
        self._left = 0
        self._trailer_bytes = 0
        self.trailers: Headers = []

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the part of the body in these bytes, and the bytes behind its end; None if more of it follows.

        Raises:
            FramingError: the bytes are not a body in chunks. Line ends other than CR LF are never accepted.
        """
        if self._held:
            data, self._held = self._held + data, b""
        parts: list[bytes] = []
        at, size = 0, len(data)
        while at < size:
            if self._state == _DATA:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data[at:])
                break
            line = data[at:end]
            at = end + 2
            if self._ends_with(line):
                return b"".join(parts), data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts), None

    def _ends_with(self, line: bytes) -> bool:
        """Take a line; return whether the body ends with it."""
        if self._state == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None or len(line) > SIZE_LINE_BYTES_MAX:
                raise FramingError("the size of a chunk is missing")
            self._left = int(match[1], 16)
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _DATA_END:
            if line:
                raise FramingError("a chunk is longer than its size")
            self._state = _SIZE
        elif line:
            self._take_trailer(line)
        return self._state == _TRAILERS and not line

    def _take_trailer(self, line: bytes) -> None:
        match = _FIELD.fullmatch(line)
        self._trailer_bytes += len(line)
        if match is None:
            raise FramingError("a trailer is not a header")
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise FramingError("the trailers are too large")
        self.trailers.append((match[1], match[2].rstrip(b" \t")))

    def _hold(self, start: bytes) -> None:
        """Keep the start of a line."""
        bound = TRAILER_BYTES_MAX if self._state == _TRAILERS else SIZE_LINE_BYTES_MAX
        if len(start) > bound or b"\n" in start or (self._state == _DATA_END and start != b"\r"):
            raise FramingError("the end of a line is missing")
        self._held = start


def chunk(data: bytes) -> bytes:
    """Return a part of a body as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the end of a body in chunks."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"".join((b"0\r\n", *(b"%b: %b\r\n" % trailer for trailer in trailers), b"\r\n"))
