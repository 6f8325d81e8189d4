"""A cache that is bounded by the weight of its values: the least recently used ones leave first."""

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class WeighedCache(Generic[K, V]):
    """Values by key, for several threads.

    Examples:
        >>> cache = WeighedCache[str, int](weight_max=10)
        >>> cache.put("a", 1, weight=6)
        >>> cache.put("b", 2, weight=4)
        >>> cache.get("a"), cache.put("c", 3, weight=3), cache.get("b")
        (1, None, None)
    """

    def __init__(self, weight_max: int) -> None:
        self._weight_max = weight_max
        self._weight = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        """Return the value, which is now the most recently used one; None if it is missing."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def some(self, keys: Iterable[K]) -> dict[K, V]:
        """Return those of the values that are there."""
        with self._lock:
            found = {key: entry[0] for key in keys if (entry := self._entries.get(key)) is not None}
            for key in found:
                self._entries.move_to_end(key)
        return found

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value in place of an earlier one. A value above the bound is not kept."""
        with self._lock:
            if (earlier := self._entries.pop(key, None)) is not None:
                self._weight -= earlier[1]
            if weight > self._weight_max:
                return
            self._entries[key] = value, weight
            self._weight += weight
            while self._weight > self._weight_max:
                _, (_, lighter) = self._entries.popitem(last=False)
                self._weight -= lighter
