"""Which idle machines are in the way of a gang that waits: those that it cannot use, where only so many may exist."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from dstack.domain.market import Market, Offers, without
from dstack.domain.offers import OfferName
from dstack.domain.placement import Gang, JobQueue, Line, Placement, Queue, place
from dstack.domain.placement.capacity import Machines
from dstack.domain.placement.passes import never_over
from dstack.domain.rooms import Room

ENDING = "a machine is ending, and another replaces it"
GIVES_WAY = "an idle machine that the run cannot use ends, and another replaces it"
"""Why the gang waits for which that machine is the first to end: now, or in a plan only once the run is submitted."""


def make_way(
    placement: Placement,
    queue: Queue,
    rooms: Sequence[Room],
    market: Market,
    in_use: Mapping[OfferName, int],
    *,
    is_over: Callable[[int], bool] = never_over,
) -> None:
    """Add to a placement the idle machines that are to end, so that a gang gets others in their place.

    A machine that some job in the queue could use stays, and so do all where ending them would not be enough.

    Args:
        queue: the whole queue, of which the placement has placed a part. Read only where a machine may be in the way.
        rooms: the machines there are, after the placement.
        market: the offers that are not sold out.
        in_use: how many machines of each offer may exist, those that are ending among them; without what is bought.
        is_over: gets the number of placed jobs, and returns whether the pass has reached its bound.
    """
    limited = [name for name in in_use if market.is_limited(name)]
    if not limited:
        return
    staying = Counter(room.offer.name for room in (*rooms, *placement.bought))
    ending = market.named(name for name in limited if in_use[name] > staying[name])
    idle = [room for room in rooms if room.gives_way and room.jobs == 0 and room.offer.name in limited]
    if idle or ending:
        _Way(placement, rooms, market, staying).make(queue, idle, ending, is_over)


class _Way:
    """The search for machines that are in the way."""

    def __init__(
        self, placement: Placement, rooms: Sequence[Room], market: Market, staying: Mapping[OfferName, int]
    ) -> None:
        self._placement = placement
        self._machines = Machines(rooms)
        self._market = market
        self._staying = Counter(staying)

    def make(self, queue: Queue, idle: Sequence[Room], ending: Offers, is_over: Callable[[int], bool]) -> None:
        """Look at the lines whose offers idle or ending machines use up; the others take no time."""
        waiting = self._waiting_in(queue)
        usable = 0
        for line in waiting if idle else ():
            usable |= self._machines.serving(line)
        kept = {room.key for kind in self._machines.select(usable) for room in kind.rooms}
        idle = [room for room in idle if room.key not in kept]
        unclaimed = self._market.everything
        used_up = ending | self._market.named({room.offer.name for room in idle})
        for line, gang in waiting.items():
            fitting = self._market.buyable(line.demand, line.project_id) & unclaimed
            unclaimed = without(unclaimed, fitting)
            if not fitting & used_up:
                continue
            ended = self._in_the_way_of(JobQueue(queue.jobs_of(gang)), line, fitting, idle)
            if ended:
                self._placement.giving_way += [room.key for room in ended]
                self._placement.reasons[gang.run_id] = GIVES_WAY
                idle = [room for room in idle if room not in ended]
            elif ended is not None and fitting & ending:
                self._placement.reasons[gang.run_id] = ENDING
            if not used_up & unclaimed or is_over(len(self._placement.placed)):
                return

    def _waiting_in(self, queue: Queue) -> Mapping[Line, Gang]:
        """Return the first gang of each line that has found no place, in the order of the queue."""
        over = {placed.job.id for placed in self._placement.placed} | {job.id for job in self._placement.hopeless}
        first: dict[Line, Gang] = {}
        for gang in queue.gangs(first):
            if gang.ids[0] not in over:
                first[gang.line] = gang
        return first

    def _rooms_for(self, line: Line) -> list[Room]:
        return [room for kind in self._machines.select(self._machines.serving(line)) for room in kind.rooms]

    def _in_the_way_of(
        self, gang: JobQueue, line: Line, fitting: Offers, idle: Sequence[Room]
    ) -> Sequence[Room] | None:
        """Return the fewest idle machines without which the gang has its place; None where no number is enough.

        The gang cannot use the idle machines themselves. So each one that ends leaves only more to buy.
        """
        index = self._market.index
        market = self._market.without(without(self._market.everything, fitting))
        could = [room for room in idle if market.named([room.offer.name])]
        own = self._rooms_for(line)

        def placed_without(number: int) -> Placement | None:
            left = self._staying - Counter(room.offer.name for room in could[:number])
            found = place(gang, [room.copy() for room in own], market, left)
            return found if found.placed else None

        low, high = 0, len(could)
        found = placed_without(high)
        if found is None:
            return None
        while low < high:
            middle = (low + high) // 2
            fewer = placed_without(middle)
            if fewer is None:
                low = middle + 1
            else:
                high, found = middle, fewer
        bought = Counter(room.offer.name for room in found.bought)
        limits = {name: index.offers[index.places[name]].machines_max or 0 for name in bought}
        needed = Counter({name: bought[name] + self._staying[name] - limits[name] for name in bought})
        return [room for room in could[:high] if _take(needed, room.offer.name)]


def _take(needed: Counter[OfferName], name: OfferName) -> bool:
    """Return whether one more of it is needed, which is then one less."""
    needed[name] -= 1
    return needed[name] >= 0
