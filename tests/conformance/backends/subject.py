"""A driver under test, with the means to judge from outside what it does."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from dstack.backends.base import Backend, LaunchRequest, Machine, MachineState
from dstack.domain.offers import Offer
from dstack.errors import BackendError

T = TypeVar("T")
LISTED_WITHIN_S = 120.0
"""The longest delay of a list that is not exact."""


def threads(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return the results of calls that were made at once."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(), calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A driver of one account. A field that is None leaves out the checks that need it."""

    name: str
    """The name of its backend in offers."""
    make: Callable[[], Backend]
    """Make a driver of the account, as a server does at each start."""
    machines_max: int | None
    """How many of its machines may exist at once; None without limit."""
    exist: Callable[[], int]
    """Count the machines of the account that really exist."""
    wait: Callable[[float], None]
    """Let seconds pass."""
    elsewhere: Callable[[], Backend]
    """Make the driver of another installation in the same place."""
    asks_max: int = 60
    """So often is the end of one machine asked for at most."""
    boot: Callable[[Machine], None] = lambda machine: None
    """Start what runs on a machine, where nothing in its place does."""
    at_once: Callable[[Sequence[Callable[[], Machine]]], list[Machine]] = threads
    sold_out: Callable[[], Backend] | None = None
    """Make a driver of the account while no machine is left."""
    failing: Callable[[], Backend] | None = None
    """Make a driver of the account while each machine fails to boot."""
    unreachable: Callable[[], Backend] | None = None
    """Make a driver of the account while the backend does not answer."""
    unauthorized: Callable[[], Backend] | None = None
    """Make a driver with credentials that are wrong."""

    def request(self, driver: Backend, number: int = 1, offer: Offer | None = None) -> LaunchRequest:
        """Return a request for the machine of this number."""
        return LaunchRequest(
            key=f"{number:06d}",
            name=f"dstack-main-{number:06d}",
            offer=offer or driver.offers()[0],
            tags={"dstack_project": "main"},
        )

    def listed(self, driver: Backend, key: str | None, *, are: int) -> list[Machine]:
        """Return the machines that exist by the driver's list, once there are so many of them or time is over."""
        left_s = 0.0 if driver.abilities.lists_exactly else LISTED_WITHIN_S
        while True:
            found = [machine for machine in driver.look_up(key) if machine.state is not MachineState.ENDED]
            if len(found) == are or left_s <= 0:
                return found
            self.wait(5.0)
            left_s -= 5.0

    def end(self, driver: Backend, key: str, keep: str | None = None) -> None:
        """Ask for the end of a machine until it is confirmed."""
        for _ in range(self.asks_max):
            with suppress(BackendError):  # it may be refused for now
                if driver.terminate(key, keep):
                    return
            self.wait(0.1)
        raise AssertionError(f"the end of {key} is never confirmed")
