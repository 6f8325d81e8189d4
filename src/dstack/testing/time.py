"""An event loop whose time jumps to the next timer whenever nothing else is to be done, and whose threads are none.

Days pass in seconds, and the same program takes the same turns each time: blocking calls run where they are asked for.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2030, 1, 1, tzinfo=UTC)


class Stuck(AssertionError):
    """Everybody waits, and nothing will ever happen."""


class Hangs(BaseException):
    """Raised by a blocking call that does not return now: its caller gets neither a result nor this error.

    Args:
        for_s: the seconds after which the call is made in truth; None if it never returns.
    """

    def __init__(self, for_s: float | None = None) -> None:
        self.for_s = for_s


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs on virtual time, in one thread.

    Args:
        passes: asked with the name of a point before and after each blocking call; where it says no, whoever asked for
            the call never hears of it.
    """

    def __init__(self, passes: Callable[[str], bool] = lambda point: True) -> None:
        self._passed_s = 0.0
        self._passes = passes
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
        watched = not getattr(executor, "_thread_name_prefix", "").startswith("store-")  # it has points of its own
        if watched and not self._passes(f"before {_name_of(func)}"):
            return future
        self._call(future, functools.partial(func, *args), f"after {_name_of(func)}" if watched else None)
        return future

    def _call(self, future: "asyncio.Future[Any]", call: Callable[[], Any], point: str | None) -> None:
        """Make a call, now or once it does not hang any more. A caller that has lost patience hears nothing."""
        try:
            result = call()
        except Hangs as hangs:
            if hangs.for_s is not None:
                self.call_later(hangs.for_s, self._call, future, call, point)
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
            if not future.done():
                future.set_exception(error)
        else:
            if (point is None or self._passes(point)) and not future.done():
                future.set_result(result)

    def _write_to_self(self) -> None:
        """There is no other thread that would have to be woken."""


def _name_of(func: Callable[..., Any]) -> str:
    """What `asyncio.to_thread` was asked to call."""
    called = func.args[0] if isinstance(func, functools.partial) and func.args else func
    return getattr(called, "__qualname__", type(called).__name__).replace("<locals>.", "").replace("<lambda>", "call")


class _Selector(selectors.DefaultSelector):
    """Nothing comes from outside: either somebody is ready, or the next timer is."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("Everybody waits for something that will never happen")
        if timeout:
            self._loop.skip(timeout)
        return []


class VirtualClock:
    """The time of a `VirtualLoop`, as the engine asks for it (`dstack.kit.clock.Clock`).

    Args:
        ahead_s: how wrong it goes; sleeps are right all the same.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ahead_s: float = 0.0) -> None:
        self._loop = loop
        self._ahead_s = ahead_s

    def now(self) -> datetime:
        """The virtual time."""
        return START + timedelta(seconds=self._loop.time() + self._ahead_s)

    async def sleep(self, span: timedelta) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(span.total_seconds())
