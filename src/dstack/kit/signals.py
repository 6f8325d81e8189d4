"""Wake-ups by key inside one process: a subscriber learns that a key changed, not how."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Signals:
    """Subscribe first, then look, then wait: nothing that happens in between is missed."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Subscription]] = {}

    def notify(self, keys: Iterable[str]) -> None:
        """Wake all subscribers of the keys."""
        for key in keys:
            for subscription in self._waiting.get(key, ()):
                subscription.hear(key)

    def notify_all(self) -> None:
        """Wake all subscribers, since the changes are not known."""
        self.notify(list(self._waiting))

    @contextmanager
    def subscribe(self, *keys: str) -> Iterator["Subscription"]:
        """Hear of these keys, and of those added later, inside the `with`."""
        subscription = Subscription(self._waiting)
        subscription.add(*keys)
        try:
            yield subscription
        finally:
            subscription.close()


class Subscription:
    """The keys that changed since a subscriber last took them."""

    def __init__(self, waiting: "dict[str, set[Subscription]]") -> None:
        self._waiting = waiting
        self._keys: set[str] = set()
        self._heard: set[str] = set()
        self._event = asyncio.Event()

    def add(self, *keys: str) -> None:
        """Hear of these keys too."""
        for key in keys:
            self._keys.add(key)
            self._waiting.setdefault(key, set()).add(self)

    def hear(self, key: str) -> None:
        """Something about the key changed."""
        self._heard.add(key)
        self._event.set()

    def take(self) -> set[str]:
        """The keys that were heard of since the last time. Take first, then look."""
        heard, self._heard = self._heard, set()
        self._event.clear()
        return heard

    async def wait(self) -> None:
        """Return once something was heard that is not yet taken."""
        await self._event.wait()

    def close(self) -> None:
        """Hear no more."""
        for key in self._keys:
            waiting = self._waiting[key]
            waiting.discard(self)
            if not waiting:
                del self._waiting[key]
