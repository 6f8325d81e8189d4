"""A client that follows the events and notes when it hears of the end of each run."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from dstack.api import Client
from dstack.errors import DstackError

TIMEOUT_S = 30.0
ENDS = {"done", "failed", "terminated"}


class Ends:
    """When which run was heard to have ended."""

    def __init__(self, client: Client, after: int) -> None:
        self.heard: dict[str, float] = {}
        self._client = client
        self._after = after
        self._changed = threading.Condition()
        self._is_over = False

    def follow(self) -> None:
        """Read events until told that it is over."""
        try:
            for event in self._client.events.follow(after=self._after):
                if event.run_id and event.kind.startswith("run.") and event.status in ENDS:
                    with self._changed:
                        self.heard[event.run_id] = time.monotonic()
                        self._changed.notify_all()
                if self._is_over:
                    return
        except (DstackError, OSError):
            if not self._is_over:
                raise

    def leave(self) -> None:
        """Read no more events, from the next one on."""
        self._is_over = True

    def wait_for(self, run_ids: Collection[str]) -> None:
        """Until all of these have ended."""
        self._wait(lambda: all(id in self.heard for id in run_ids))

    def wait_for_count(self, count: int) -> None:
        """Until so many runs have ended."""
        self._wait(lambda: len(self.heard) >= count)

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            heard = self._changed.wait_for(is_so, TIMEOUT_S)
        assert heard, f"after {TIMEOUT_S:g} s only {len(self.heard)} runs were heard to have ended"


@contextmanager
def ends_after(client: Client, cursor: int) -> Iterator[Ends]:
    """The ends of runs after an event, noted as they are heard."""
    ends = Ends(client, cursor)
    thread = threading.Thread(target=ends.follow, daemon=True)
    thread.start()
    try:
        yield ends
    finally:
        ends.leave()
