"""Two ends of a connection inside one process, which can be cut."""

import asyncio
from asyncio import StreamReader, StreamWriter
from typing import cast

from dstack.protocol.frames import LINE_BYTES_MAX


class Pipe:
    """One direction's writing end; looks like a `StreamWriter` to those who write frames."""

    def __init__(self, latency_s: float) -> None:
        self.reader = StreamReader(limit=LINE_BYTES_MAX)
        self._latency_s = latency_s
        self._closed = False
        self._peer: Pipe | None = None

    @classmethod
    def pair(cls, latency_s: float) -> "tuple[Pipe, Pipe]":
        """Both directions of a connection; what one writes, the other's `reader` gets."""
        here, there = cls(latency_s), cls(latency_s)
        here._peer, there._peer = there, here
        return here, there

    def streams(self) -> tuple[StreamReader, StreamWriter]:
        """What a connector returns."""
        return self.reader, cast(StreamWriter, self)

    def write(self, data: bytes) -> None:
        """Send; what is sent after the cut is lost."""
        assert self._peer is not None
        if not self._closed:
            asyncio.get_running_loop().call_later(self._latency_s, self._peer._receive, data)

    def _receive(self, data: bytes) -> None:
        if not self._closed:
            self.reader.feed_data(data)

    async def drain(self) -> None:
        """There is always room."""

    def close(self) -> None:
        """Cut the connection; what was under way is lost."""
        assert self._peer is not None
        for end in (self, self._peer):
            if not end._closed:
                end._closed = True
                end.reader.feed_eof()

    def is_closing(self) -> bool:
        """Whether it is cut."""
        return self._closed

    async def wait_closed(self) -> None:
        """It is closed at once."""
