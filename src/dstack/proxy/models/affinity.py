"""Conversations and their replicas: a replica has what it has read of a conversation, and the next turn begins with it.

A text is cut into blocks, and the hash of each block includes that of the one before. Texts with the same hash begin
with the same bytes. The blocks grow, so that `BLOCKS_MAX` of them distinguish short texts as well as long ones.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from dstack.proxy.balance import ReplicaState
from dstack.proxy.routes import Route

BLOCKS_MAX = 64
FIRST_BLOCK_BYTES = 256
"""A shorter text has no block: to read it again costs a replica next to nothing."""
TEXT_BYTES_MAX = 256 << 10
"""The rest of a longer text has no effect."""
GAP = 8
"""A replica with so many requests more than the least busy one takes no further conversation, whatever it has read."""
REMEMBERED_MAX = 65_536
"""Blocks of all conversations. Those that were not seen for the longest time are forgotten first."""

_DOWN = 1e9

_ENDS = tuple(
    round(FIRST_BLOCK_BYTES * (TEXT_BYTES_MAX / FIRST_BLOCK_BYTES) ** (number / (BLOCKS_MAX - 1)))
    for number in range(BLOCKS_MAX)
)


def chain_of(model: str, text: memoryview) -> list[int]:
    """Return the hashes of a text's blocks, each of the text from its beginning.

    Examples:
        >>> first, second = b"x" * 1000 + b"one", b"x" * 1000 + b"two"
        >>> a, b = chain_of("m", memoryview(first * 9)), chain_of("m", memoryview(second * 9))
        >>> [x == y for x, y in zip(a, b)].index(False) == sum(end <= 1000 for end in _ENDS)
        True
    """
    chain: list[int] = []
    value, begin, size = hash(model), 0, len(text)
    for end in _ENDS:
        if end > size:
            break
        value = hash((value, text[begin:end].tobytes()))
        chain.append(value)
        begin = end
    return chain


class Affinity:
    """The replicas that have read the conversations of late."""

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._max = remembered_max
        self._replicas: OrderedDict[int, ReplicaState] = OrderedDict()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._replicas)

    def choose(
        self, routes: Iterable[Route], chain: Sequence[int], now_s: float, tried: Sequence[ReplicaState] = ()
    ) -> tuple[Route, ReplicaState] | None:
        """Return the service and the replica for a request, and remember the replica for the conversation.

        The replica that has read the most of the conversation is chosen if it can be reached and its load allows.
        Otherwise the one with the fewest requests is; among equals they take turns.

        Args:
            routes: the services that serve the model.
            chain: as `chain_of` returns it; empty where the beginning of a text does not matter.
            tried: those that have just failed.
        """
        free = {state: route for route in routes for state in route.replicas.ready if state not in tried}
        if not free:
            return None
        self._turn += 1
        states = list(free)
        begin = self._turn % len(states)
        least = min((*states[begin:], *states[:begin]), key=lambda state: _load(state, now_s))
        chosen = self._reader(chain, free)
        if chosen is None or _load(chosen, now_s) - _load(least, now_s) >= GAP:
            chosen = least
        self._remember(chain, chosen)
        return free[chosen], chosen

    def _reader(self, chain: Sequence[int], free: dict[ReplicaState, Route]) -> ReplicaState | None:
        """Return the replica that has read the most of a conversation."""
        for value in reversed(chain):
            state = self._replicas.get(value)
            if state is None:
                continue
            if state in free:
                return state
            if not state.is_ready:
                del self._replicas[value]
        return None

    def _remember(self, chain: Sequence[int], state: ReplicaState) -> None:
        replicas = self._replicas
        for value in chain:
            replicas[value] = state
            replicas.move_to_end(value)
        while len(replicas) > self._max:
            replicas.popitem(last=False)


def _load(state: ReplicaState, now_s: float) -> float:
    return state.outstanding + (_DOWN if state.down_until_s > now_s else 0)
