"""Which idle machines are in the way of a gang that waits: those that it cannot use, where only so many may exist."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dstack.domain.objects import Job
from dstack.domain.offers import Demand, Offer, OfferName, fits
from dstack.domain.placement import Placement, gangs_of, may_buy, place
from dstack.domain.rooms import Room

ENDING = "a machine is ending, and another replaces it"
GIVES_WAY = "an idle machine that the run cannot use ends, and another replaces it"
"""Why the gang waits for which that machine is the first to end: now, or in a plan only once the run is submitted."""


def make_way(
    placement: Placement,
    queue: Iterable[Job],
    rooms: Sequence[Room],
    offers: Sequence[Offer],
    in_use: Mapping[OfferName, int],
) -> None:
    """Add to a placement the idle machines that are to end, so that a gang gets others in their place.

    A machine that some job in the queue could use stays, and so do all where ending them would not be enough.

    Args:
        queue: the whole queue, of which the placement has placed a part. Read only where a machine may be in the way.
        rooms: the machines there are, after the placement.
        offers: the offers.
        in_use: how many machines of each offer may exist, those that are ending among them; without what is bought.
    """
    limited = {offer.name for offer in offers if offer.machines_max is not None}
    staying = Counter(room.offer.name for room in (*rooms, *placement.bought))
    is_ending = any(in_use.get(name, 0) > staying[name] for name in limited)
    idle = [room for room in rooms if room.gives_way and room.jobs == 0 and room.offer.name in limited]
    if not idle and not is_ending:
        return
    waiting = _waiting_in(queue, placement)
    idle = [room for room in idle if not any(_serves(room, gang[0]) for gang in waiting)]
    claimed = set[OfferName]()
    for gang in waiting:
        fitting = [offer for offer in offers if may_buy(gang[0].demand, offer) and offer.name not in claimed]
        ended = _in_the_way_of(gang, fitting, rooms, idle, staying)
        if ended:
            placement.giving_way += [room.key for room in ended]
            placement.waiting[gang[0].run_id] = GIVES_WAY
            idle = [room for room in idle if room not in ended]
        elif ended is not None and is_ending:
            placement.waiting[gang[0].run_id] = ENDING
        claimed |= {offer.name for offer in fitting}
        if claimed >= limited:
            return


def _waiting_in(queue: Iterable[Job], placement: Placement) -> list[list[Job]]:
    """The first gang of each kind that has found no place, in the order of the queue."""
    over = {placed.job.id for placed in placement.placed} | {job.id for job in placement.hopeless}
    first: dict[tuple[str, Demand, int], list[Job]] = {}
    for gang in gangs_of(queue):
        if gang[0].id not in over:
            first.setdefault((gang[0].project_id, gang[0].demand, len(gang)), gang)
    return list(first.values())


def _serves(room: Room, job: Job) -> bool:
    return room.project_id in (None, job.project_id) and fits(job.demand, room.offer)


def _in_the_way_of(
    gang: Sequence[Job],
    fitting: Sequence[Offer],
    rooms: Sequence[Room],
    idle: Sequence[Room],
    staying: Counter[OfferName],
) -> list[Room] | None:
    """The fewest idle machines without which the gang has its place; None where no number of them is enough."""
    names = {offer.name for offer in fitting}
    could = [room for room in idle if room.offer.name in names]
    for number in range(len(could) + 1):
        ended = could[:number]
        left = staying - Counter(room.offer.name for room in ended)
        others = [room.copy() for room in rooms if room not in ended]
        found = place(gang, others, fitting, left)
        if len(found.placed) == len(gang):
            bought = Counter(room.offer.name for room in found.bought)
            limits = {offer.name: offer.machines_max or 0 for offer in fitting}
            needed = Counter({name: bought[name] + staying[name] - limits[name] for name in bought})
            return [room for room in ended if _take(needed, room.offer.name)]
    return None


def _take(needed: Counter[OfferName], name: OfferName) -> bool:
    """Whether one more of it is needed, which is then one less."""
    needed[name] -= 1
    return needed[name] >= 0
