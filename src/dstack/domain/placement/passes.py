"""One pass over the queue."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dstack.domain.market import Market, Offers
from dstack.domain.objects import Job
from dstack.domain.offers import OfferName, Share, share_of
from dstack.domain.placement.capacity import Machines, Stock, dearness
from dstack.domain.placement.queues import Gang, JobQueue, Line, Queue
from dstack.domain.placement.waiting import BEHIND, why
from dstack.domain.rooms import Room

OFFERS_NAMED_MAX = 3
"""The bound of offers in the reason of a wait."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One job and the room it gets."""

    job: Job
    key: str
    share: Share


@dataclass(frozen=True, slots=True)
class Rest:
    """The rest of the queue, which a pass had no time for."""

    after: Gang
    """The last gang that was looked at."""
    waiting: tuple[Line, ...]
    """The lines before it that wait: what they could use is kept from the rest."""


@dataclass(slots=True)
class Placement:
    """The decisions of a pass."""

    placed: list[Placed] = field(default_factory=list)
    bought: list[Room] = field(default_factory=list)
    """The machines to buy, named by their `key`."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Why runs wait, by id: of those at the head of the queue."""
    hopeless: list[Job] = field(default_factory=list)
    """The jobs for which everything that fits is sold out."""
    giving_way: list[str] = field(default_factory=list)
    """The idle machines to end, by key: others are to be bought in their place."""
    rest: Rest | None = None
    """What remains to be looked at; None once the pass is complete."""


def never_over(placed: int) -> bool:
    """Return False: the pass has no bound."""
    return False


def place(
    queue: Queue,
    rooms: Iterable[Room],
    market: Market,
    in_use: Mapping[OfferName, int],
    sold_out: Iterable[OfferName] = (),
    closed: Sequence[str] = (),
    *,
    waiting: Sequence[Line] = (),
    is_over: Callable[[int], bool] = never_over,
) -> Placement:
    """Place as much of the queue as there is room for, on the machines there are or on new ones.

    Args:
        queue: the queue, or the rest of it.
        rooms: the machines there are; changed by what is placed.
        market: the offers, also those that are used up or sold out.
        in_use: how many machines of each offer may exist, those that are ending among them: they count against the
            limits.
        sold_out: the offers of which a backend had no machine.
        closed: why backends take no new jobs; the market does not show their offers, and their rooms rest.
        waiting: the lines that wait before `queue` begins; what they could use is kept from it.
        is_over: gets the number of placed jobs after each gang, and tells whether the pass has reached its bound.
    """
    return _Pass(rooms, market, in_use, sold_out, closed, waiting).run(queue, is_over)


def can_ever_place(gang: Sequence[Job], market: Market) -> bool:
    """Return whether all nodes would fit together on free machines; a gang that never fits would block the queue."""
    return gang[0].demand.reuse_only or bool(place(JobQueue(gang), (), market, {}).placed)


@dataclass(slots=True)
class _Try:
    """A place for each node of a gang, as far as there was any."""

    placed: list[tuple[Job, Room, Share]] = field(default_factory=list)
    bought: list[Room] = field(default_factory=list)


class _Pass:
    """One pass over the queue."""

    def __init__(
        self,
        rooms: Iterable[Room],
        market: Market,
        in_use: Mapping[OfferName, int],
        sold_out: Iterable[OfferName],
        closed: Sequence[str],
        waiting: Sequence[Line],
    ) -> None:
        self._everything = market
        self._sold_out = market.named(sold_out)
        self._closed = closed
        self._market = market.without(self._sold_out)
        self._machines = Machines(rooms)
        self._stock = Stock(self._market, in_use)
        self._waiting: dict[Line, None] = {}
        self._placement = Placement()
        for line in waiting:
            self._claim(line, self._machines.serving(line))

    def run(self, queue: Queue, is_over: Callable[[int], bool]) -> Placement:
        for gang in queue:
            if gang.line in self._waiting:
                self._placement.waiting.setdefault(gang.run_id, BEHIND)
                continue
            self._look(gang, queue.jobs_of(gang))
            if self._is_closed:
                break
            if is_over(len(self._placement.placed)):
                self._placement.rest = Rest(gang, tuple(self._waiting))
                break
        return self._placement

    @property
    def _is_closed(self) -> bool:
        """Whether nothing is left that a later gang could use."""
        return not self._stock.free and not self._machines.open & ~self._machines.claimed

    def _look(self, gang: Gang, jobs: Sequence[Job]) -> None:
        kinds, offers = self._machines.serving(gang.line), self._buyable(gang.line)
        found = self._try(jobs, kinds & ~self._machines.claimed, offers & self._stock.free)
        if len(found.placed) == len(jobs):
            self._keep(found)
            return
        self._undo(found)
        if not kinds and not offers and self._buyable(gang.line, self._everything) & self._sold_out:
            self._placement.hopeless += jobs
            return
        if self._could_be_placed(jobs, kinds, offers):
            self._placement.waiting[gang.run_id] = BEHIND
        else:
            named = self._market.select(offers, OFFERS_NAMED_MAX)
            reason = why(jobs, len(found.placed), self._machines.select(kinds), named, self._closed)
            self._placement.waiting[gang.run_id] = reason
        self._claim(gang.line, kinds)

    def _buyable(self, line: Line, market: Market | None = None) -> Offers:
        return (market or self._market).buyable(line.demand, line.project_id)

    def _could_be_placed(self, jobs: Sequence[Job], kinds: int, offers: int) -> bool:
        """Return whether a gang would have its place if earlier ones had claimed nothing."""
        if not kinds & self._machines.claimed and not offers & self._stock.claimed:
            return False
        unclaimed = self._try(jobs, kinds, offers)
        self._undo(unclaimed)
        return len(unclaimed.placed) == len(jobs)

    def _claim(self, line: Line, kinds: int) -> None:
        self._waiting[line] = None
        self._machines.claimed |= kinds
        self._stock.claim(self._buyable(line))

    def _try(self, jobs: Sequence[Job], kinds: int, offers: int) -> _Try:
        """Take room for one node after the other (their requirements are equal) until no room is left.

        Args:
            kinds: the kinds of machines that it may use.
            offers: the offers that it may buy.
        """
        found = _Try()
        kinds &= self._machines.open
        open_bought: list[Room] = []
        for job in jobs:
            best = self._machines.best(job.demand, kinds) if kinds else None
            for room in open_bought:
                part = room.share_for(job.demand, share_of(job.demand, room.offer))
                if part is not None and (best is None or dearness((room, part)) < dearness(best)):
                    best = room, part
            if best is None:
                key = f"new-{len(self._placement.bought) + len(found.bought)}"
                best = self._stock.buy(offers, job.demand, key, job.project_id)
                if best is None:
                    break
                found.bought.append(best[0])
                open_bought.append(best[0])
            room, share = best
            room.take(share)
            if room.is_full and room in open_bought:
                open_bought.remove(room)
            found.placed.append((job, room, share))
        return found

    def _keep(self, found: _Try) -> None:
        self._placement.bought += found.bought
        # The nodes of a gang find the same around them, wherever they are.
        container = any(share.container for _, _, share in found.placed)
        self._placement.placed += [
            Placed(job, room.key, replace(share, container=container)) for job, room, share in found.placed
        ]
        for room in found.bought:
            self._machines.add(room)
        for _, room, _ in found.placed:
            self._machines.changed(room)

    def _undo(self, found: _Try) -> None:
        for _, room, share in found.placed:
            room.give_back(share)
        for room in found.bought:
            self._stock.give_back(room.offer)
