"""Calls of drivers, which block: each driver has threads of its own, so that a hanging one delays no other.

Some of a driver's threads only end machines: launches that hang delay no termination.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dstack.backends.base import Abilities, Backend
from dstack.errors import BackendUnavailable

T = TypeVar("T")

CALLS_AT_ONCE = 16
ENDS_AT_ONCE = 4
"""The threads that only end machines, beside the others."""


class Backends:
    """All backends that are configured, by name."""

    def __init__(self, drivers: Mapping[str, Backend]) -> None:
        self._drivers = drivers
        self._threads = {
            (name, ends): ThreadPoolExecutor(
                ENDS_AT_ONCE if ends else CALLS_AT_ONCE, thread_name_prefix=f"backend-{name}"
            )
            for name in drivers
            for ends in (True, False)
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._drivers)

    def abilities(self, name: str) -> Abilities:
        """Return what the driver of a backend declares; the defaults for a backend that is no longer configured."""
        driver = self._drivers.get(name)
        return Abilities() if driver is None else driver.abilities

    async def call(
        self, name: str, function: Callable[[Backend], T], *, timeout_s: float, ends_machine: bool = False
    ) -> T:
        """Return the result of `function` of a driver, run in one of its threads.

        Args:
            ends_machine: whether it uses the threads that are kept free for ends.

        Raises:
            BackendUnavailable: it did not answer in time, or there is no backend of this name any more.
        """
        if name not in self._drivers:
            raise BackendUnavailable(f"The backend `{name}` is no longer configured")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                return await loop.run_in_executor(self._threads[name, ends_machine], function, self._drivers[name])
        except TimeoutError:
            raise BackendUnavailable(f"The backend `{name}` did not answer within {timeout_s:g} s") from None

    def close(self) -> None:
        """Begin no more calls."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
