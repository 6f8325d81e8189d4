"""Two ends of a connection inside one process, which can be cut."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Callable
from typing import cast

from dstack.protocol.frames import LINE_BYTES_MAX


class Pipe:
    """One direction's writing end; looks like a `StreamWriter` to those who write frames."""

    def __init__(self, latency_s: float) -> None:
        self.reader = StreamReader(limit=LINE_BYTES_MAX)
        self.passes: Callable[[str], bool] | None = None
        """Asked before and after each write; where it says no, the writer has died."""
        self._latency_s = latency_s
        self._closed = False
        self._peer: Pipe | None = None
        self._coming: deque[bytes] = deque()
        """What is under way to this end; kept in order here, since timers of one moment are not."""

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
        if self._closed or (self.passes is not None and not self.passes("before a message")):
            return
        self._peer._coming.append(data)
        asyncio.get_running_loop().call_later(self._latency_s, self._peer._receive)
        if self.passes is not None:
            self.passes("after a message")

    def _receive(self) -> None:
        data = self._coming.popleft()
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

    @property
    def transport(self) -> "Pipe":
        """As a `StreamWriter` has one."""
        return self

    def abort(self) -> None:
        """Cut the connection."""
        self.close()

    async def wait_closed(self) -> None:
        """It is closed at once."""
