"""An event loop whose time jumps to the next timer whenever nothing else is to be done, and whose threads are none.

Days pass in seconds, and the same program takes the same turns each time: blocking calls run where they are asked for.
"""

import asyncio
import selectors
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2030, 1, 1, tzinfo=UTC)


class Stuck(AssertionError):
    """Everybody waits, and nothing will ever happen."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs on virtual time, in one thread."""

    def __init__(self) -> None:
        self._passed_s = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._passed_s

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_s += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Run the function here and now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
            future.set_exception(error)
        return future


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready and timeout is None:
            raise Stuck("Everybody waits for something that will never happen")
        if not ready and timeout:
            self._loop.skip(timeout)
        return ready


class VirtualClock:
    """The time of a `VirtualLoop`, as the engine asks for it (`dstack.kit.clock.Clock`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        """The virtual time."""
        return START + timedelta(seconds=self._loop.time())

    async def sleep(self, span: timedelta) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(span.total_seconds())
