"""The capacity that a pass assigns: the machines there are, by kind, and the offers that may still be bought.

Sets of kinds and of offers are numbers, as in `domain.market`. All that a pass changes is here, over a market that
never changes.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dstack.domain.market import NO_OFFERS, Index, Market, Offers, places_in, set_of, without
from dstack.domain.misfits import fits
from dstack.domain.offers import Demand, Offer, OfferName, Share, share_of
from dstack.domain.placement.queues import Line
from dstack.domain.rooms import Room, empty_room


@dataclass(frozen=True, slots=True)
class Summary:
    """The rooms of one kind, as the reason of a wait needs them."""

    well: int
    """The machines that do not rest."""
    busy: int
    """Those of them that have jobs."""
    freest: Room | None
    """The one of them with the most free CPUs and memory."""
    rests: str
    """Why another one rests."""


@dataclass(slots=True)
class Kind:
    """The rooms of one kind, whose machines are alike."""

    offer: Offer
    project_id: str | None
    rooms: list[Room] = field(default_factory=list)
    open: dict[str, Room] = field(default_factory=dict)
    """Those that had room after the last gang, by key."""
    _summary: Summary | None = None

    def add(self, rooms: Sequence[Room]) -> None:
        """Add machines."""
        self.rooms += rooms
        self._summary = None
        self.open.update((room.key, room) for room in rooms if not room.is_full)

    def changed(self, room: Room) -> None:
        """Note that jobs were placed on a machine."""
        self._summary = None
        if room.is_full:
            self.open.pop(room.key, None)

    def best(self, demand: Demand) -> tuple[Room, Share] | None:
        """Return the fullest room that has room still, so that large gaps stay whole."""
        share = share_of(demand, self.offer)
        if not self.offer.is_shared:  # each is as good as the other
            room = next((room for room in self.open.values() if not room.is_full), None)
            return None if room is None else (room, share)
        rooms = self.open.values()
        found = ((room, part) for room in rooms if (part := room.share_for(demand, share)) is not None)
        return min(found, key=dearness, default=None)

    @property
    def summary(self) -> Summary:
        """Return what is known of the rooms; counted again only after a change."""
        if self._summary is None:
            well = [room for room in self.rooms if not room.rests]
            self._summary = Summary(
                well=len(well),
                busy=sum(room.jobs > 0 for room in well),
                freest=max(well, key=lambda room: (room.cpus, room.memory_mib), default=None),
                rests=next((room.rests for room in self.rooms if room.rests), ""),
            )
        return self._summary


def dearness(found: tuple[Room, Share]) -> tuple[float, float, str]:
    """Return the order of machines: the cheapest first, the fullest first among equals."""
    room, _ = found
    return room.offer.price, room.cpus, room.key


_INDEXES_MAX = 8
_indexes: dict[tuple[int, ...], Index] = {}
"""The latest indexes of machines, by the identities of their offers, which live as long as the index."""


def _index_of(offers: Sequence[Offer]) -> Index:
    """Return the index of some offers. Most passes see the machines of the pass before."""
    key = tuple(map(id, offers))
    index = _indexes.get(key)
    if index is None:
        if len(_indexes) >= _INDEXES_MAX:
            _indexes.clear()
        index = _indexes[key] = Index(offers)
    return index


class Machines:
    """The machines there are, and those that the pass buys. A set of kinds has one bit for each of `kinds`."""

    def __init__(self, rooms: Iterable[Room]) -> None:
        same = defaultdict[tuple[str | None, int], list[Room]](list)  # most share an offer: comparing it takes longer
        for room in rooms:
            same[room.project_id, id(room.offer)].append(room)
        found: dict[tuple[str | None, Offer], Kind] = {}
        for (project_id, _), some in same.items():
            found.setdefault((project_id, some[0].offer), Kind(some[0].offer, project_id)).add(some)
        self.kinds = sorted(found.values(), key=lambda kind: kind.offer.price)
        self._index = _index_of([kind.offer for kind in self.kinds])
        self._places = {(kind.project_id, kind.offer): place for place, kind in enumerate(self.kinds)}
        self._indexed = len(self.kinds)
        self._of_project: dict[str | None, int] = {}
        self.open = 0
        """The kinds with a machine that has room."""
        self.claimed = 0
        """The kinds that waiting gangs have reserved against later ones."""
        self.bought = 0
        """The kinds of which the pass has bought machines."""
        for place, kind in enumerate(self.kinds):
            self._enter(place, kind)

    def _enter(self, place: int, kind: Kind) -> None:
        self._of_project[kind.project_id] = self._of_project.get(kind.project_id, 0) | 1 << place
        self.open |= bool(kind.open) << place

    def serving(self, line: Line) -> int:
        """Return the kinds on which the jobs of a line could run, were they free."""
        own = self._of_project.get(line.project_id, 0) | self._of_project.get(None, 0)
        found = self._index.fitting(line.demand)
        for place in range(self._indexed, len(self.kinds)):  # bought in this pass
            found |= fits(line.demand, self.kinds[place].offer) << place
        return found & own

    def best(self, demand: Demand, some: int) -> tuple[Room, Share] | None:
        """Return the cheapest machine of some kinds that has room, the fullest first among equals."""
        best: tuple[Room, Share] | None = None
        for place in places_in(some):
            kind = self.kinds[place]
            if place < self._indexed and best is not None and kind.offer.price > best[0].offer.price:
                continue
            found = kind.best(demand)
            if found is not None and (best is None or dearness(found) < dearness(best)):
                best = found
        return best

    def add(self, room: Room) -> None:
        """Add a machine that is bought."""
        name = room.project_id, room.offer
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = len(self.kinds)
            self.kinds.append(Kind(room.offer, room.project_id))
        self.kinds[place].add([room])
        self.bought |= 1 << place
        self._enter(place, self.kinds[place])

    def changed(self, room: Room) -> None:
        """Note that jobs were placed on a machine."""
        place = self._places[room.project_id, room.offer]
        self.kinds[place].changed(room)
        if not self.kinds[place].open:
            self.open &= ~(1 << place)

    def select(self, some: int) -> list[Kind]:
        """Return some kinds."""
        return [self.kinds[place] for place in places_in(some)]


class Stock:
    """The offers, and how many machines of each may still be bought."""

    def __init__(self, market: Market, in_use: Mapping[OfferName, int]) -> None:
        self._market = market
        self._left: dict[int, int] = {}
        """How many may still be bought of what is in use and limited, by place."""
        index = market.index
        for name, number in in_use.items():
            place = index.places.get(name)
            if place is not None and (most := index.offers[place].machines_max) is not None:
                self._left[place] = most - number
        used_up = set_of((place for place, left in self._left.items() if left <= 0), len(index.offers))
        self.open: Offers = without(market.everything, index.closed | used_up)
        """The offers of which a machine may still be bought."""
        self.claimed = NO_OFFERS
        """The offers that waiting gangs have reserved against later ones."""

    def buy(self, some: Offers, demand: Demand, key: str, project_id: str) -> tuple[Room, Share] | None:
        """Return a new machine of the cheapest of some offers, and the job's share of it; None where all are used up.

        Shunned offers count only where no other one is left.

        Args:
            some: offers that fit.
            key: the name of the machine in this pass.
        """
        buyable = some & self.open
        if not buyable:
            return None
        better = next((rest for shunned in self._market.shunned if (rest := without(buyable, shunned))), buyable)
        place = next(places_in(better))
        offer = self._market[place]
        self._change(place, offer, -1)
        room = empty_room(key, offer, None if offer.for_all else project_id)
        share = room.share_for(demand, share_of(demand, offer))
        assert share is not None, "an empty machine that fits has room"
        return room, share

    def give_back(self, offer: Offer) -> None:
        """Undo `buy`."""
        self._change(self._market.index.places[offer.name], offer, 1)

    def _change(self, place: int, offer: Offer, by: int) -> None:
        if offer.machines_max is None:
            return
        left = self._left[place] = self._left.get(place, offer.machines_max) + by
        bit = 1 << place
        self.open = without(self.open, bit) if left <= 0 else self.open | bit
