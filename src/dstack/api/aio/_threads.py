"""Blocking calls for an event loop: short calls share a bounded pool, and each long wait has its own thread."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from dstack.errors import client_closed
from dstack.kit.tasks import apart

P = ParamSpec("P")
T = TypeVar("T")

CALLS_AT_ONCE = 32
WAITS_AT_ONCE = 1000
WAIT = "dstack-wait"
"""The name of the threads of long waits."""
CHUNKS_AHEAD = 16
"""The number of items of a stream that are buffered before the reader takes them."""


class Threads:
    """The threads of a client's blocking calls."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="dstack-call")
        self._is_closed = False
        self._waits = threading.BoundedSemaphore(WAITS_AT_ONCE)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a short call.

        Raises:
            ServerUnreachableError: the client is closed.
        """
        if self._is_closed:
            raise client_closed()
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args, **kwargs))

    async def wait(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a call that may take hours. A cancelled wait leaves the call to end by itself."""
        return await apart(self._counted(partial(function, *args, **kwargs)), WAIT)

    async def stream(self, source: Iterator[T]) -> AsyncIterator[T]:
        """Yield the items of a blocking iterator as they come."""
        stream = _Stream(source, asyncio.get_running_loop())
        self._start(stream.pump)
        try:
            while True:
                item = await stream.take()
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                yield item
        finally:
            stream.close()

    def close(self) -> None:
        """Refuse further calls, and drop calls that have not begun."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, run: Callable[[], None]) -> None:
        threading.Thread(target=self._counted(run), name=WAIT, daemon=True).start()

    def _counted(self, run: Callable[[], T]) -> Callable[[], T]:
        """Return `run` with one of the `WAITS_AT_ONCE` places, which its end frees. Raises if all are taken."""
        if not self._waits.acquire(blocking=False):
            raise RuntimeError(f"More than {WAITS_AT_ONCE} waits at once: use one client for each part of them")

        def release() -> T:
            try:
                return run()
            finally:
                self._waits.release()

        return release


class _End:
    """The last item of a stream, with the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Stream(Generic[T]):
    """A bounded buffer between a thread and an event loop. The thread waits while the buffer is full."""

    def __init__(self, source: Iterator[T], loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop
        self._ready: asyncio.Queue[T | _End] = asyncio.Queue()
        self._room = threading.BoundedSemaphore(CHUNKS_AHEAD)
        self._closed = False

    async def take(self) -> "T | _End":
        item = await self._ready.get()
        if not isinstance(item, _End):
            self._room.release()
        return item

    def close(self) -> None:
        """Stop reading. The thread ends with the next item at the latest."""
        self._closed = True
        with contextlib.suppress(ValueError):  # the buffer was not full
            self._room.release()

    def pump(self) -> None:
        end = _End(None)
        try:
            for item in self._source:
                self._room.acquire()
                if self._closed:
                    return
                self._put(item)
        except BaseException as error:  # noqa: BLE001 - the reader of the stream raises it
            end = _End(error)
        self._put(end)

    def _put(self, item: "T | _End") -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.put_nowait, item)
        except RuntimeError:
            self._closed = True  # the loop has ended, and the reader with it
