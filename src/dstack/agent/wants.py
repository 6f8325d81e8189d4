"""Questions of an agent to its server."""

import asyncio
from asyncio import Future
from collections.abc import Callable


class Wants:
    """Blobs asked of the server. A question waits for as long as no server is there to answer it."""

    def __init__(self) -> None:
        self.ask: Callable[[str], None] = lambda blob_hash: None
        """Sends a question, where there is a connection."""
        self._open: dict[str, Future[bytes | None]] = {}

    async def fetch(self, blob_hash: str) -> bytes | None:
        """The blob, or None where the server has none."""
        answer = self._open.get(blob_hash)
        if answer is None:
            answer = self._open[blob_hash] = asyncio.get_running_loop().create_future()
            self.ask(blob_hash)
        # Others may wait for the same blob when one of them is cancelled.
        return await asyncio.shield(answer)

    def ask_again(self) -> None:
        """Send all open questions, to a server that has not heard them."""
        for blob_hash in self._open:
            self.ask(blob_hash)

    def answer(self, blob_hash: str, blob: bytes | None) -> None:
        """Pass on the server's answer to a question."""
        waiting = self._open.pop(blob_hash, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(blob)
