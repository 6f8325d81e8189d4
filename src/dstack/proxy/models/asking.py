"""A question that the data plane itself has for a replica."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dstack.protocol.proxy import Target
from dstack.proxy.heads import AnswerHead

if TYPE_CHECKING:
    from dstack.proxy.plane import DataPlane

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 1 << 20


async def ask(plane: "DataPlane", target: Target, path: bytes) -> bytes:
    """Return the body of a replica's answer to `GET`. Raises `OSError`."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            connection = await plane.connect(target)
            try:
                question = _Question()
                connection.ask(question)
                connection.transport.write(b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path)
                return await question.answer
            finally:
                connection.close()
    except TimeoutError:
        raise OSError(f"it did not answer within {TIMEOUT_S:g} s") from None


class _Question:
    """An answer that is collected: see `replicas.Answering`."""

    is_head = False

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._parts: list[bytes] = []
        self._left = ANSWER_BYTES_MAX

    def interim(self, head: AnswerHead) -> None: ...

    def switched(self, head: AnswerHead) -> bool:
        return False

    def head(self, head: AnswerHead) -> None:
        if head.status != 200:
            self.lost(f"it answered with the status {head.status}")

    def body(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.lost(f"its answer has more than {ANSWER_BYTES_MAX >> 20} MiB")
        else:
            self._parts.append(data)

    def end(self, trailers: Sequence[tuple[bytes, bytes]]) -> None:
        if not self.answer.done():
            self.answer.set_result(b"".join(self._parts))

    def whole(self, head: AnswerHead, body: bytes) -> None:
        self.head(head)
        self.body(body)
        self.end(())

    def flush(self) -> None: ...

    def lost(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(OSError(reason))

    def ended(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
