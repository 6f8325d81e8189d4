"""Who runs where: one pure pass over the whole queue, shared by the engine and by whoever asks what it would do.

All nodes of a gang or none; the queue's order is kept, and what cannot be placed now stays where it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from dstack.domain.objects import Instance, Job
from dstack.domain.offers import Demand, Offer, Share, gpus_for, misfits, share_of


@dataclass(slots=True)
class Room:
    """What is free on one machine, existing or to be bought."""

    key: str
    """The instance's id, or `new-<n>`."""
    offer: Offer
    project_id: str | None
    cpus: float
    memory_mib: int
    gpus_taken: set[int] = field(default_factory=set)
    jobs: int = 0

    @property
    def is_full(self) -> bool:
        """Whether no job at all could come in."""
        return self.jobs > 0 if not self.offer.shared else self.cpus <= 0

    def share_for(self, demand: Demand) -> Share | None:
        """The part that a job would get here now; None where it does not fit just now."""
        if not self.offer.shared:
            return share_of(demand, self.offer) if self.jobs == 0 else None
        share = share_of(demand, self.offer)
        gpus = gpus_for(demand, self.offer.resources.gpus, taken=frozenset(self.gpus_taken))
        if gpus is None or share.cpus > self.cpus or share.memory_mib > self.memory_mib:
            return None
        return replace(share, gpus=gpus)

    def take(self, share: Share) -> None:
        """Let a job in."""
        self._change(share, 1)
        self.gpus_taken.update(share.gpus)

    def give_back(self, share: Share) -> None:
        """Undo `take`."""
        self._change(share, -1)
        self.gpus_taken.difference_update(share.gpus)

    def _change(self, share: Share, jobs: int) -> None:
        self.cpus -= share.cpus * jobs
        self.memory_mib -= share.memory_mib * jobs
        self.jobs += jobs


@dataclass(frozen=True, slots=True)
class Placed:
    """One job and the room it gets."""

    job: Job
    key: str
    share: Share


@dataclass(slots=True)
class Placement:
    """What a pass decided."""

    placed: list[Placed] = field(default_factory=list)
    bought: list[Room] = field(default_factory=list)
    """The machines to buy, named by their `key`."""


def rooms_of(instances: Iterable[Instance], jobs: Iterable[Job]) -> list[Room]:
    """What is free on the machines there are."""
    rooms = {
        instance.id: empty_room(instance.id, instance.offer, instance.project_id)
        for instance in instances
        if instance.takes_jobs
    }
    for job in jobs:
        if job.holds_machine and (room := rooms.get(job.instance_id or "")):
            room.take(job.share)
    return list(rooms.values())


def empty_room(key: str, offer: Offer, project_id: str | None) -> Room:
    """A machine without jobs."""
    return Room(key, offer, project_id, offer.resources.cpus, offer.resources.memory_mib)


def place(queue: Iterable[Job], rooms: Sequence[Room], offers: Sequence[Offer], existing: Sequence[Offer]) -> Placement:
    """Place as much of the queue as there is room for, on the machines there are or on new ones.

    Args:
        queue: jobs in the order of the queue; the nodes of a gang follow each other.
        rooms: the machines there are; changed by what is placed.
        offers: what can be bought.
        existing: the offers of all machines that may exist, also of those that are ending: they count against the
        limits.
    """
    market = _Market(offers, existing)
    placement = Placement()
    open_rooms = list(rooms)
    for gang in _gangs(queue):
        if all(room.is_full for room in open_rooms) and not market.is_open:
            break
        _place_gang(gang, open_rooms, market, placement)
    return placement


def _gangs(queue: Iterable[Job]) -> Iterator[list[Job]]:
    for _, nodes in groupby(queue, key=lambda job: (job.run_id, job.replica)):
        yield list(nodes)


def _place_gang(gang: list[Job], rooms: list[Room], market: "_Market", placement: Placement) -> None:
    taken: list[tuple[Job, Room, Share]] = []
    bought: list[Room] = []
    for job in gang:
        found = _room_for(job, [*rooms, *bought]) or market.buy(job, number=len(placement.bought) + len(bought))
        if found is None:
            for _, room, share in taken:
                room.give_back(share)
            for room in bought:
                market.give_back(room.offer)
            return
        room, share = found
        if room.jobs == 0 and room not in rooms and room not in bought:
            bought.append(room)
        room.take(share)
        taken.append((job, room, share))
    rooms.extend(bought)
    placement.bought.extend(bought)
    placement.placed.extend(Placed(job, room.key, share) for job, room, share in taken)


def _room_for(job: Job, rooms: Sequence[Room]) -> tuple[Room, Share] | None:
    """The cheapest existing machine with room, the fullest first among equals, so that large gaps stay whole."""
    fitting = []
    for room in rooms:
        if room.is_full or room.project_id not in (None, job.project_id):
            continue
        share = room.share_for(job.demand)
        if share is not None and next(misfits(job.demand, room.offer), None) is None:
            fitting.append((room, share))
    return min(fitting, key=lambda found: (found[0].offer.price, found[0].cpus, found[0].key), default=None)


class _Market:
    """The offers, cheapest first, and how many of each may still be bought."""

    def __init__(self, offers: Sequence[Offer], existing: Sequence[Offer]) -> None:
        self._offers = sorted(offers, key=lambda offer: (offer.price, offer.backend, offer.region, offer.instance_type))
        self._left = {_name(offer): offer.machines_max for offer in offers}
        for offer in existing:
            self._change(offer, -1)

    @property
    def is_open(self) -> bool:
        return any(left is None or left > 0 for left in self._left.values())

    def buy(self, job: Job, *, number: int) -> tuple[Room, Share] | None:
        for offer in self._offers:
            if job.demand.reuse_only and not offer.shared:  # what is shared was there before
                continue
            left = self._left[_name(offer)]
            if (left is None or left > 0) and next(misfits(job.demand, offer), None) is None:
                self._change(offer, -1)
                room = empty_room(f"new-{number}", offer, None if offer.shared else job.project_id)
                share = room.share_for(job.demand)
                assert share is not None, "an empty machine that fits has room"
                return room, share
        return None

    def give_back(self, offer: Offer) -> None:
        self._change(offer, 1)

    def _change(self, offer: Offer, by: int) -> None:
        left = self._left.get(_name(offer))
        if left is not None:
            self._left[_name(offer)] = left + by


def _name(offer: Offer) -> tuple[str, str, str, bool]:
    return offer.backend, offer.region, offer.instance_type, offer.spot
