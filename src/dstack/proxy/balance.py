"""The replicas of one service: which of them a request goes to."""

from collections.abc import Sequence

from dstack.protocol.proxy import Replica
from dstack.proxy.replicas import ReplicaConnection

DOWN_FOR_S = 1.0
"""A replica that refused a connection is left alone for so long, then for twice the time, up to `DOWN_FOR_S_MAX`."""
DOWN_FOR_S_MAX = 10.0


class ReplicaState:
    """One replica: its requests, its idle connections, and whether it can be reached."""

    __slots__ = ("down_for_s", "down_until_s", "idle", "is_draining", "is_ready", "outstanding", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.outstanding = 0
        self.idle: list[ReplicaConnection] = []
        """Connections without a request; the one used last is the last."""
        self.is_draining = False
        self.is_ready = True
        """Whether it takes new requests."""
        self.down_until_s = 0.0
        self.down_for_s = 0.0

    def failed(self, now_s: float) -> None:
        """Leave it alone for a while: a connection to it has failed."""
        self.down_for_s = min(max(2 * self.down_for_s, DOWN_FOR_S), DOWN_FOR_S_MAX)
        self.down_until_s = now_s + self.down_for_s

    def succeeded(self) -> None:
        """Note that it can be reached."""
        self.down_for_s = self.down_until_s = 0.0

    def close_idle(self, since_s: float = float("inf")) -> None:
        """Close the connections that have had no request since then."""
        idle = self.idle
        while idle and (idle[0].idle_since_s < since_s or idle[0].is_broken):
            idle.pop(0).close()


class Replicas:
    """The replicas of a service, in the order of their numbers."""

    def __init__(self) -> None:
        self.ready: list[ReplicaState] = []
        self._known: dict[str, ReplicaState] = {}
        self._next = 0

    def follow(self, ready: Sequence[Replica], draining: Sequence[Replica]) -> None:
        """Take over a new state. A replica that stays keeps its connections and requests."""
        known: dict[str, ReplicaState] = {}
        for replicas, is_draining in ((ready, False), (draining, True)):
            for replica in replicas:
                state = self._known.get(replica.job_id)
                if state is None or state.replica.target != replica.target:
                    state = ReplicaState(replica)
                state.is_draining = is_draining
                state.is_ready = not is_draining
                if is_draining:
                    state.close_idle()
                known[replica.job_id] = state
        for job_id, state in self._known.items():
            if known.get(job_id) is state:
                continue
            state.is_ready = state.is_draining = False
            state.close_idle()
            if state.outstanding and job_id not in known:  # it may come back, or drain, with the requests that it has
                known[job_id] = state
        self._known = known
        self.ready = [known[replica.job_id] for replica in ready]

    def close_idle(self, since_s: float) -> None:
        """Close the connections that have had no request since then."""
        for state in self._known.values():
            if state.idle:
                state.close_idle(since_s)

    @property
    def draining(self) -> list[ReplicaState]:
        """Return those that finish what they have."""
        return [state for state in self._known.values() if state.is_draining]

    @property
    def busy(self) -> list[ReplicaState]:
        """Return those that have requests."""
        return [state for state in self._known.values() if state.outstanding]

    def least(self, now_s: float, tried: Sequence[ReplicaState] = ()) -> ReplicaState | None:
        """Return the replica with the fewest requests; among equals they take turns.

        One that could not be reached a moment ago is chosen only where no other is left.
        """
        ready = self.ready
        count = len(ready)
        if count == 1 and not tried:
            return ready[0]
        self._next += 1
        best: ReplicaState | None = None
        best_load = 0.0
        for place in range(count):
            state = ready[(place + self._next) % count]
            if state in tried:
                continue
            load = state.outstanding + (1e9 if state.down_until_s > now_s else 0)
            if best is None or load < best_load:
                best, best_load = state, load
        return best
