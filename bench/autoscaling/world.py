"""A service on a virtual clock: clients, a data plane, replicas that need minutes to start, and a rule."""

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from bench.autoscaling.traces import Request
from dstack.domain.autoscaling import Scale
from dstack.domain.traffic import Sums
from dstack.store.traffic import start_of, with_point

SLOTS = 16
COLD_START_S = 180.0
PATIENCE_S = 300.0
WAITED_S = 1.0
EPOCH = datetime(2026, 3, 2, 7, 58, 31, tzinfo=UTC)
"""The beginning, which is no round time: points and rows of the store begin at round ones."""
EPOCH_S = EPOCH.timestamp()
KEPT_POINTS = 100

Look = Callable[["World", float], tuple[int, float | None]]
"""A rule: from the world and its time to the replicas that it asks for, and the seconds until its next look."""


@dataclass(slots=True)
class Replica:
    """A replica, which works on some requests and may have a queue."""

    born_at: float
    ready_at: float
    running: int = 0
    queue: deque[Request] = field(default_factory=deque)
    is_draining: bool = False

    @property
    def outstanding(self) -> int:
        return self.running + len(self.queue)


@dataclass(slots=True)
class Outcome:
    """The measured behaviour of a rule on a trace."""

    requests: int = 0
    dropped: int = 0
    waits_s: list[float] = field(default_factory=list)
    replica_s: float = 0.0
    decisions: int = 0

    @property
    def waited_share(self) -> float:
        return (sum(wait > WAITED_S for wait in self.waits_s) + self.dropped) / max(1, self.requests)

    @property
    def p95_s(self) -> float:
        return sorted(self.waits_s)[int(0.95 * len(self.waits_s))] if self.waits_s else 0.0


class DataPlane:
    """The counters of a data plane, and the points that the store keeps of them."""

    def __init__(self) -> None:
        self.ended = 0
        self.in_flight = 0
        self.history: list[Sums] = []
        self._row_at: datetime | None = None

    def report(self, now: float, held: int) -> bool:
        """Report at a second, and return whether there was anything to report."""
        sums = Sums(EPOCH_S + now, self.ended, 0, self.in_flight, (), held)
        last = self.history[-1] if self.history else Sums(0)
        if not self.in_flight and (last.requests, last.in_flight, last.held) == (self.ended, 0, 0):
            return False
        row_at = start_of(sums.at)
        if row_at != self._row_at:  # a row begins with the sums before it, as in the store
            self.history.append(replace(last, at=row_at.timestamp(), in_flight=0, held=0))
            self._row_at = row_at
            self.history.append(sums)
            del self.history[:-KEPT_POINTS]
        else:
            self.history = with_point(self.history, sums)
        return True


class World:
    """A service that answers the requests of a trace."""

    def __init__(self, requests: Sequence[Request], minimum: int, look: Look, *, is_woken: bool, is_central: bool):
        """Create it.

        Args:
            is_woken: whether the rule looks after each report, too.
            is_central: whether requests wait in one queue, not in those of the replicas.
        """
        self.look, self.is_woken, self.is_central = look, is_woken, is_central
        self.requests = requests
        self._arrivals = [request.at for request in requests]
        self.plane = DataPlane()
        self.held: deque[Request] = deque()
        self.replicas = [Replica(0.0, 0.0) for _ in range(minimum)]
        self.scale = Scale(minimum, EPOCH - timedelta(hours=1))
        self.outcome = Outcome(len(requests))
        self.events: list[tuple[float, int, Replica]] = []
        self.numbers = count()
        self.next_look: float | None = 0.0

    def run(self, length_s: float) -> Outcome:
        """Live through a trace, and until its last request has ended."""
        place, now = 0, 0.0
        while now < length_s or self.plane.in_flight:
            now += 1.0
            while place < len(self.requests) and self.requests[place].at <= now:
                self._advance(self.requests[place].at)
                self._arrive(self.requests[place])
                place += 1
            self._advance(now)
            self._give_up(now)
            if now <= length_s:
                self.outcome.replica_s += len(self.replicas)
                self._consider(now)
        return self.outcome

    def arrived(self, begin: float, end: float) -> int:
        """Return the exact number of requests between two times."""
        return bisect_right(self._arrivals, end) - bisect_right(self._arrivals, begin)

    def _consider(self, now: float) -> None:
        is_new = self.plane.report(now, 0 if self._ready(now) else len(self.held))
        is_due = self.next_look is not None and now >= self.next_look
        if not is_due and not (is_new and self.is_woken):
            return
        asked, again_s = self.look(self, now)
        self.next_look = None if again_s is None else now + again_s
        if asked == self.scale.asked:
            return
        self.scale = Scale(asked, EPOCH + timedelta(seconds=now))
        self.outcome.decisions += 1
        self._resize(asked, now)

    def _resize(self, asked: int, now: float) -> None:
        """Start replicas or call drained ones back; drain those that are not ready yet, or the least busy ones."""
        wanted = [one for one in self.replicas if not one.is_draining]
        for one in sorted(wanted, key=lambda one: (one.ready_at <= now, one.outstanding))[
            : max(0, len(wanted) - asked)
        ]:
            one.is_draining = True
            self._end_if_drained(one)
        lacking = asked - len(wanted)
        for one in [one for one in self.replicas if one.is_draining][: max(0, lacking)]:
            one.is_draining = False
            self._fill(one, now)
            lacking -= 1
        for _ in range(lacking):
            fresh = Replica(now, now + COLD_START_S)
            self.replicas.append(fresh)
            heapq.heappush(self.events, (fresh.ready_at, -next(self.numbers), fresh))

    def _advance(self, now: float) -> None:
        """Process what ends or becomes ready until a time: numbers of events below 0 are those of starts."""
        while self.events and self.events[0][0] <= now:
            at, number, replica = heapq.heappop(self.events)
            if number > 0:
                replica.running -= 1
                self._end()
            if not self.is_central and self.held and self._ready(at):
                self._distribute(at)
            self._fill(replica, at)
            self._end_if_drained(replica)

    def _end(self) -> None:
        self.plane.in_flight -= 1
        self.plane.ended += 1

    def _end_if_drained(self, replica: Replica) -> None:
        if replica.is_draining and not replica.outstanding and replica in self.replicas:
            self.replicas.remove(replica)

    def _ready(self, now: float) -> list[Replica]:
        return [one for one in self.replicas if one.ready_at <= now and not one.is_draining]

    def _arrive(self, request: Request) -> None:
        self.plane.in_flight += 1
        ready = self._ready(request.at)
        least = min(ready, key=lambda one: one.outstanding) if ready else None
        if least is None or (self.is_central and least.running >= SLOTS):
            self.held.append(request)
        else:
            least.queue.append(request)
            self._fill(least, request.at)

    def _distribute(self, now: float) -> None:
        while self.held:
            least = min(self._ready(now), key=lambda one: one.outstanding)
            least.queue.append(self.held.popleft())
        for one in self._ready(now):
            self._fill(one, now)

    def _fill(self, replica: Replica, now: float) -> None:
        """Begin work on waiting requests while there are slots."""
        if replica.ready_at > now:
            return
        takes_held = self.is_central and not replica.is_draining
        while replica.running < SLOTS and (replica.queue or (takes_held and self.held)):
            request = (replica.queue or self.held).popleft()
            self.outcome.waits_s.append(now - request.at)
            replica.running += 1
            heapq.heappush(self.events, (now + request.service_s, next(self.numbers) + 1, replica))

    def _give_up(self, now: float) -> None:
        """Forget the requests of clients that have waited for too long."""
        for queue in (self.held, *(one.queue for one in self.replicas)):
            while queue and now - queue[0].at > PATIENCE_S:
                queue.popleft()
                self.outcome.dropped += 1
                self._end()
