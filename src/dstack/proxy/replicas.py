"""Connections to replicas, and the answers that come through them."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from dstack.kit import channels
from dstack.protocol.proxy import Target, Tcp
from dstack.proxy.framing import Chunked, FramingError
from dstack.proxy.heads import AnswerHead, Heads

HEAD_BYTES_MAX = 256 << 10
"""Of the head of one answer."""
INTERIM_MAX = 100
"""Answers of 1xx before the answer itself."""
IDLE_MAX_S = 1.5
"""A connection that has been idle for longer is not used again. Many servers close theirs after two to five seconds,
and a request that meets such an end cannot always be repeated."""

_HEAD, _FIXED, _CHUNKED, _UNTIL_CLOSE, _RAW = range(5)
"""The part of an answer that comes next."""


class Answering(Protocol):
    """The request that a connection answers. The connection calls it in this order."""

    is_head: bool
    """Whether its method is HEAD: the answer has no body, whatever its head announces."""

    def interim(self, head: AnswerHead) -> None:
        """Take an answer of 1xx that announces another one."""

    def switched(self, head: AnswerHead) -> bool:
        """Take the 101 after which the connection has another protocol; return False where it was not requested."""

    def head(self, head: AnswerHead) -> None:
        """Take the head of the answer."""

    def body(self, data: bytes) -> None:
        """Take a part of its body, or bytes of another protocol."""

    def end(self, trailers: Sequence[tuple[bytes, bytes]]) -> None:
        """Note the end of the answer."""

    def whole(self, head: AnswerHead, body: bytes) -> None:
        """Take a whole answer, in the usual form: the same as its head, its body and its end."""

    def flush(self) -> None:
        """Send what these calls have written: all that one read of the connection brought goes on at once."""

    def lost(self, reason: str) -> None:
        """Note that the connection has ended before the answer."""

    def ended(self) -> None:
        """Note that the replica sends no more in the other protocol."""

    def pause(self) -> None:
        """Note that the replica takes no more for now."""

    def resume(self) -> None:
        """Note that it does again."""


class ReplicaConnection(asyncio.Protocol):
    """One connection to a replica. It answers one request after the other."""

    __slots__ = (
        "_chunked", "_heads", "_held", "_interims", "_left", "_next", "answering", "idle_since_s", "is_broken",
        "is_reused", "transport",
    )  # fmt: skip
    transport: asyncio.Transport

    def __init__(self, heads: Heads) -> None:
        # The connection
        self._heads = heads
        self.answering: Answering | None = None
        self.idle_since_s = 0.0
        self.is_reused = False
        """Whether it has answered a request before."""
        self.is_broken = False
        """Whether no other request may be sent."""
        # The answer that arrives
        self._next = _HEAD
        self._held = b""
        """The start of a head."""
        self._interims = 0
        self._left = 0
        """Bytes of a body of fixed length that are missing."""
        self._chunked = Chunked()

    def ask(self, answering: Answering) -> None:
        """Take a request; its bytes are written to the transport."""
        self.answering = answering

    def close(self) -> None:
        """End the connection, whatever it is doing."""
        self.is_broken = True
        self.answering = None
        self.transport.abort()

    # Reports of asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        answering = self.answering
        if answering is None:  # no request is under way
            self.close()
            return
        if self._next == _HEAD and not self._held:  # most answers arrive whole, with a head that was read before
            end = data.find(b"\r\n\r\n") + 4
            head = self._heads.answers.get(data[:end])
            if head is not None and head.is_plain and head.length == len(data) - end and not answering.is_head:
                self.answering = None
                self._interims = 0
                answering.whole(head, data[end:])
                return
        try:
            if self._next == _HEAD:
                self._take_head(answering, data)
            else:
                self._take_body(answering, data)
        except FramingError as error:
            self._fail(f"the framing of its answer is wrong: {error}")

    def eof_received(self) -> bool:
        if self._next == _RAW and self.answering is not None:
            self.answering.ended()
            return True
        self.is_broken = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_broken = True
        answering, self.answering = self.answering, None
        if answering is None:
            return
        if self._next == _RAW or (self._next == _UNTIL_CLOSE and exc is None):
            answering.end(())
        else:
            begun = "before it answered" if self._next == _HEAD else "in the middle of its answer"
            answering.lost(f"it closed the connection {begun}")

    def pause_writing(self) -> None:
        if self.answering is not None:
            self.answering.pause()

    def resume_writing(self) -> None:
        if self.answering is not None:
            self.answering.resume()

    # The answer

    def _take_head(self, answering: Answering, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > HEAD_BYTES_MAX:
                self._hold(data)
                answering.flush()
                return
            try:
                head = self._heads.answer(data[:end])
            except ValueError as error:
                self._fail(f"its answer is not HTTP: {error}")
                return
            data = data[end:]
            if head.status >= 200:
                break
            if not self._take_interim(answering, head):
                return
            if self._next == _RAW:
                self._take_body(answering, data)
                return
        self._begin_body(answering, head)
        answering.head(head)
        self._take_body(answering, data)

    def _hold(self, start: bytes) -> None:
        """Keep the start of a head."""
        if len(start) > HEAD_BYTES_MAX:
            self._fail(f"the head of its answer has more than {HEAD_BYTES_MAX} bytes")
        elif b"\n\n" in start or not b"HTTP/1.".startswith(start[:7]):
            self._fail("its answer is not HTTP")
        else:
            self._held = start

    def _take_interim(self, answering: Answering, head: AnswerHead) -> bool:
        """Take an answer of 1xx; return False where the connection has ended with it."""
        self._interims += 1
        if head.status == 101:
            self._next = _RAW
            if not answering.switched(head):
                self._fail("it switched to another protocol without being asked")
        elif self._interims > INTERIM_MAX:
            self._fail(f"it sent more than {INTERIM_MAX} answers of 1xx")
        else:
            answering.interim(head)
        return self.answering is answering

    def _begin_body(self, answering: Answering, head: AnswerHead) -> None:
        self._interims = 0
        self._left = 0
        if not head.keeps:
            self.is_broken = True
        if answering.is_head or head.status in (204, 304):
            self._next = _FIXED
        elif head.is_chunked:
            self._next = _CHUNKED
            self._chunked = Chunked()
        elif head.length is None:
            self._next = _UNTIL_CLOSE
            self.is_broken = True
        else:
            self._next = _FIXED
            self._left = head.length

    def _take_body(self, answering: Answering, data: bytes) -> None:
        if self._next == _FIXED:
            self._take_fixed(answering, data)
        elif self._next == _CHUNKED:
            self._take_chunks(answering, data)
        else:
            if data:
                answering.body(data)
            answering.flush()

    def _take_fixed(self, answering: Answering, data: bytes) -> None:
        left = self._left - len(data)
        if left < 0:  # more than it announced
            self.is_broken = True
            data = data[: self._left]
        self._left = left
        if data:
            answering.body(data)
        if left > 0:
            answering.flush()
        else:
            self._finish(answering, ())

    def _take_chunks(self, answering: Answering, data: bytes) -> None:
        data, rest = self._chunked.feed(data)
        if data:
            answering.body(data)
        if rest is None:
            answering.flush()
            return
        if rest:  # more than it announced
            self.is_broken = True
        self._finish(answering, self._chunked.trailers)

    def _finish(self, answering: Answering, trailers: Sequence[tuple[bytes, bytes]]) -> None:
        """Free the connection, and report the end of the answer."""
        self.answering = None
        self._next = _HEAD
        answering.end(trailers)

    def _fail(self, reason: str) -> None:
        answering = self.answering
        self.close()
        if answering is not None:
            answering.lost(reason)


async def connect(target: Target, heads: Heads) -> ReplicaConnection:
    """Connect to a replica. Raises `OSError`."""
    connection, loop = ReplicaConnection(heads), asyncio.get_running_loop()
    if isinstance(target, Tcp):
        await loop.create_connection(lambda: connection, target.host, target.port)
    else:
        await loop.create_connection(lambda: connection, sock=await channels.connect(target))
    return connection
