"""Wake-ups by key inside one process: whoever waits for a key hears that something about it changed, not what."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Signals:
    """Subscribe first, then look, then wait: nothing that happens in between is missed."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def notify(self, keys: Iterable[str]) -> None:
        """Wake everyone who subscribed to one of the keys."""
        for key in keys:
            for event in self._waiting.get(key, ()):
                event.set()

    @contextmanager
    def subscribe(self, *keys: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of the keys is notified; the subscriber clears it before it looks."""
        event = asyncio.Event()
        for key in keys:
            self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            for key in keys:
                waiting = self._waiting[key]
                waiting.discard(event)
                if not waiting:
                    del self._waiting[key]
