"""Placement: one pure pass over the whole queue, shared by the engine and by plans.

All nodes of a gang are placed, or none. A gang that does not fit keeps its position and reserves the capacity it could
use, so it cannot starve. Capacity it could never use stays available to later gangs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from dstack.domain.objects import Job
from dstack.domain.offers import Demand, Offer, OfferName, Share, fits, share_of
from dstack.domain.rooms import Room, empty_room
from dstack.kit.text import memory_text


@dataclass(frozen=True, slots=True)
class Placed:
    """One job and the room it gets."""

    job: Job
    key: str
    share: Share


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


def place(
    queue: Iterable[Job],
    rooms: Sequence[Room],
    offers: Sequence[Offer],
    in_use: Mapping[OfferName, int],
    sold_out: Sequence[Offer] = (),
    closed: Sequence[str] = (),
) -> Placement:
    """Place as much of the queue as there is room for, on the machines there are or on new ones.

    Args:
        queue: jobs in the order of the queue; the nodes of a gang follow each other.
        rooms: the machines there are; changed by what is placed.
        offers: the offers.
        in_use: how many machines of each offer may exist, those that are ending among them: they count against the
        limits.
        sold_out: the offers, also those that are used up.
        closed: why backends take no new jobs; their offers are not among `offers`, and their rooms rest.
    """
    return _Pass(rooms, offers, in_use, sold_out, closed).run(queue)


def gangs_of(queue: Iterable[Job]) -> Iterator[list[Job]]:
    """The jobs that start together, gang by gang."""
    for _, nodes in groupby(queue, key=lambda job: (job.run_id, job.replica)):
        yield list(nodes)


def can_ever_place(gang: Sequence[Job], offers: Sequence[Offer]) -> bool:
    """Whether all nodes would fit together on free machines; a gang that never fits would block the queue."""
    return gang[0].demand.reuse_only or bool(place(gang, [], offers, {}).placed)


@dataclass(slots=True)
class _Kind:
    """The rooms of one kind, whose machines are alike."""

    offer: Offer
    project_id: str | None
    rooms: list[Room] = field(default_factory=list)
    open: dict[str, Room] = field(default_factory=dict)
    """Those that had room after the last gang, by key."""
    is_claimed: bool = False
    """Whether a waiting gang has reserved them against later gangs."""

    def serves(self, job: Job) -> bool:
        """Whether the job could run there, were it free."""
        return self.project_id in (None, job.project_id) and fits(job.demand, self.offer)

    def add(self, room: Room) -> None:
        self.rooms.append(room)
        if not room.is_full:
            self.open[room.key] = room

    def best(self, demand: Demand) -> tuple[Room, Share] | None:
        """The fullest room that has room still, so that large gaps stay whole."""
        share = share_of(demand, self.offer)
        if not self.offer.is_shared:  # each is as good as the other
            room = next((room for room in self.open.values() if not room.is_full), None)
            return None if room is None else (room, share)
        rooms = self.open.values()
        found = ((room, part) for room in rooms if (part := room.share_for(demand, share)) is not None)
        return min(found, key=_dearness, default=None)


def _dearness(found: tuple[Room, Share]) -> tuple[float, float, str]:
    """The cheapest machine first, the fullest first among equals."""
    room, _ = found
    return room.offer.price, room.cpus, room.key


@dataclass(slots=True)
class _Try:
    """A place for each node of a gang, as far as there was any."""

    placed: list[tuple[Job, Room, Share]] = field(default_factory=list)
    bought: list[Room] = field(default_factory=list)


class _Pass:
    """One pass over the queue."""

    def __init__(
        self,
        rooms: Sequence[Room],
        offers: Sequence[Offer],
        in_use: Mapping[OfferName, int],
        sold_out: Sequence[Offer],
        closed: Sequence[str],
    ) -> None:
        self._kinds: dict[tuple[str | None, Offer], _Kind] = {}
        for room in rooms:
            self._add(room)
        self._market = _Market(offers, in_use)
        self._sold_out = sold_out
        self._closed = closed
        self._waiting: set[tuple[str, Demand]] = set()
        self._placement = Placement()

    def run(self, queue: Iterable[Job]) -> Placement:
        for gang in gangs_of(queue):
            if (gang[0].project_id, gang[0].demand) in self._waiting:
                self._placement.waiting.setdefault(gang[0].run_id, BEHIND)
            elif len((found := self._try(gang)).placed) == len(gang):
                self._keep(found)
            else:
                self._undo(found)
                self._give_up_or_wait(gang, len(found.placed))
            if not self._market.is_open and not any(kind.open and not kind.is_claimed for kind in self._kinds.values()):
                break
        return self._placement

    def _add(self, room: Room) -> None:
        kind = self._kinds.get((room.project_id, room.offer))
        if kind is None:
            kind = self._kinds[room.project_id, room.offer] = _Kind(room.offer, room.project_id)
        kind.add(room)

    def _try(self, gang: list[Job], *, claimed_too: bool = False) -> _Try:
        """Take room for one node after the other (their requirements are equal) until no room is left."""
        found = _Try()
        open_kinds = [kind for kind in self._kinds.values() if kind.open and (claimed_too or not kind.is_claimed)]
        kinds = [kind for kind in open_kinds if kind.serves(gang[0])]
        for job in gang:
            bests = [best for kind in kinds if (best := kind.best(job.demand)) is not None]
            for room in found.bought:
                part = room.share_for(job.demand, share_of(job.demand, room.offer))
                bests += [] if part is None else [(room, part)]
            best = min(bests, key=_dearness, default=None)
            if best is None:
                number = len(self._placement.bought) + len(found.bought)
                best = self._market.buy(job, number=number, claimed_too=claimed_too)
                found.bought += [] if best is None else [best[0]]
            if best is None:
                break
            room, share = best
            room.take(share)
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
            self._add(room)
        for _, room, _ in found.placed:
            if room.is_full:
                self._kinds[room.project_id, room.offer].open.pop(room.key, None)

    def _undo(self, found: _Try) -> None:
        for _, room, share in found.placed:
            room.give_back(share)
        for room in found.bought:
            self._market.give_back(room.offer)

    def _give_up_or_wait(self, gang: list[Job], with_room: int) -> None:
        job = gang[0]
        kinds = [kind for kind in self._kinds.values() if kind.serves(job)]
        buyable = self._market.fitting(job.demand)
        if not kinds and not buyable and any(may_buy(job.demand, offer) for offer in self._sold_out):
            self._placement.hopeless += gang
            return
        unclaimed = self._try(gang, claimed_too=True)
        self._undo(unclaimed)
        if len(unclaimed.placed) == len(gang):
            self._placement.waiting[job.run_id] = BEHIND
        else:
            rooms = [room for kind in kinds for room in kind.rooms]
            rests = next((room.rests for room in rooms if room.rests), "")
            well = [room for room in rooms if not room.rests]
            why = _why(gang, with_room, well, buyable, self._closed) if well or not rests else ""
            self._placement.waiting[job.run_id] = "; ".join(filter(None, (why, rests)))
        self._waiting.add((job.project_id, job.demand))
        for kind in kinds:
            kind.is_claimed = True
        self._market.claim(job.demand)


BEHIND = "earlier runs wait for the same machines"


def _why(
    gang: list[Job], with_room: int, could: Sequence[Room], buyable: Sequence[Offer], closed: Sequence[str]
) -> str:
    """Return why a gang waits, given the machines and the offers that would fit it."""
    job = gang[0]
    needs = f"{with_room} of {len(gang)} nodes have room, and all start together; " if len(gang) > 1 else ""
    shared = [room for room in could if room.offer.is_shared]
    if shared:
        best = max(shared, key=lambda room: (room.cpus, room.memory_mib))
        share = share_of(job.demand, best.offer)
        has = best.offer.resources
        asked = [_counted(share.cpus, "CPU"), memory_text(share.memory_mib)]
        free = [f"{max(0, best.cpus):g} of {_counted(has.cpus, 'CPU')}", memory_text(max(0, best.memory_mib))]
        if share.gpus:
            asked.append(_counted(len(share.gpus), "GPU"))
            there = {index for index, gpu in enumerate(has.gpus) if not gpu.gone}
            free.append(f"{len(there - best.gpus_taken)} of {_counted(len(there), 'GPU')}")
        way_out = "; a run there must end first" if best.jobs else ""
        return f"{needs}needs {_listed(asked)}; {_listed(free)} are free on {best.offer.title}{way_out}"
    if could:
        busy = sum(room.jobs > 0 for room in could)
        if busy == len(could):
            return f"{needs}every machine that fits is in use ({busy})"
        return f"{needs}{busy} of the {len(could)} machines that fit are in use"
    if buyable:
        limited = ", ".join(f"{offer.machines_max} of {offer.title}" for offer in buyable[:3])
        return f"{needs}at most {limited} may exist at once, and other jobs use them"
    if job.demand.reuse_only:
        return f"{needs}no existing machine fits, and the run may not use a new one"
    return needs + "; ".join(["no backend offers a machine that fits now", *closed])


def _counted(count: float, what: str) -> str:
    return f"{count:g} {what}{'' if count == 1 else 's'}"


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def may_buy(demand: Demand, offer: Offer) -> bool:
    """Whether a job may use a machine of this offer; one that exists already is not bought."""
    return (offer.exists or not demand.reuse_only) and fits(demand, offer)


@dataclass(slots=True)
class _Stock:
    """An offer and how many of it may still be bought; None for any number."""

    offer: Offer
    left: int | None
    is_claimed: bool = False

    @property
    def is_empty(self) -> bool:
        return self.left is not None and self.left <= 0

    def change(self, by: int) -> None:
        if self.left is not None:
            self.left += by


class _Market:
    """The offers, cheapest first."""

    def __init__(self, offers: Sequence[Offer], in_use: Mapping[OfferName, int]) -> None:
        by_price = sorted(offers, key=lambda offer: (offer.price, offer.backend, offer.region, offer.instance_type))
        self._stocks = {
            offer.name: _Stock(
                offer, None if offer.machines_max is None else offer.machines_max - in_use.get(offer.name, 0)
            )
            for offer in by_price
        }

    @property
    def is_open(self) -> bool:
        return any(not stock.is_empty and not stock.is_claimed for stock in self._stocks.values())

    def fitting(self, demand: Demand) -> list[Offer]:
        """Return the offers that fit it, regardless of limits."""
        return [stock.offer for stock in self._stocks.values() if may_buy(demand, stock.offer)]

    def claim(self, demand: Demand) -> None:
        """Reserve the offers that fit it against later gangs."""
        for stock in self._stocks.values():
            stock.is_claimed = stock.is_claimed or may_buy(demand, stock.offer)

    def buy(self, job: Job, *, number: int, claimed_too: bool) -> tuple[Room, Share] | None:
        for stock in self._stocks.values():
            offer = stock.offer
            if stock.is_empty or (stock.is_claimed and not claimed_too) or not may_buy(job.demand, offer):
                continue
            stock.change(-1)
            room = empty_room(f"new-{number}", offer, None if offer.for_all else job.project_id)
            share = room.share_for(job.demand, share_of(job.demand, offer))
            assert share is not None, "an empty machine that fits has room"
            return room, share
        return None

    def give_back(self, offer: Offer) -> None:
        self._stocks[offer.name].change(1)
