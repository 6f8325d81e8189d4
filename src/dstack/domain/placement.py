"""Who runs where: one pure pass over the whole queue, shared by the engine and by whoever asks what it would do.

All nodes of a gang or none. Who cannot be placed now stays where he is, and whatever he could use once it is free is
kept from those behind him: nobody is overtaken for ever. What he could never use is theirs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from dstack.domain.objects import Instance, Job
from dstack.domain.offers import Demand, Offer, OfferName, Share, gpus_for, misfits, share_of, size


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
    waiting: dict[str, str] = field(default_factory=dict)
    """Why runs wait, by id: of those at the head of the queue."""
    hopeless: list[Job] = field(default_factory=list)
    """The jobs for which everything that fits is sold out."""


def room_of(instance: Instance, jobs: Iterable[Job]) -> Room:
    """What is free on a machine with these jobs."""
    room = empty_room(instance.id, instance.offer, instance.project_id)
    for job in jobs:
        if job.holds_machine:
            room.take(job.share)
    return room


def rooms_of(instances: Iterable[Instance], jobs: Sequence[Job]) -> list[Room]:
    """What is free on the machines there are."""
    return [
        room_of(instance, [job for job in jobs if job.instance_id == instance.id])
        for instance in instances
        if instance.takes_jobs
    ]


def empty_room(key: str, offer: Offer, project_id: str | None) -> Room:
    """A machine without jobs."""
    return Room(key, offer, project_id, offer.resources.cpus, offer.resources.memory_mib)


def place(
    queue: Iterable[Job],
    rooms: Sequence[Room],
    offers: Sequence[Offer],
    in_use: Mapping[OfferName, int],
    sold_out: Sequence[Offer] = (),
) -> Placement:
    """Place as much of the queue as there is room for, on the machines there are or on new ones.

    Args:
        queue: jobs in the order of the queue; the nodes of a gang follow each other.
        rooms: the machines there are; changed by what is placed.
        offers: what can be bought.
        in_use: how many machines of each offer may exist, those that are ending among them: they count against the
        limits.
        sold_out: what could be bought, were there any left of it.
    """
    return _Pass(rooms, offers, in_use, sold_out).run(queue)


def _gangs(queue: Iterable[Job]) -> Iterator[list[Job]]:
    for _, nodes in groupby(queue, key=lambda job: (job.run_id, job.replica)):
        yield list(nodes)


def fits(demand: Demand, offer: Offer) -> bool:
    """Whether an empty machine of this offer is what is asked for."""
    return next(misfits(demand, offer), None) is None


def can_ever_place(gang: Sequence[Job], offers: Sequence[Offer]) -> bool:
    """Whether all nodes would have a place at once, were nobody else there; one that never has blocks the queue."""
    return gang[0].demand.reuse_only or bool(place(gang, [], offers, {}).placed)


class _Claims:
    """What those who wait have a right to before everybody behind them."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, Demand], None] = {}
        self._known: dict[tuple[str | None, Offer], tuple[int, bool]] = {}

    def add(self, job: Job) -> None:
        self._waiting[job.project_id, job.demand] = None

    def has(self, job: Job) -> bool:
        """Whether somebody who asks for just the same waits already."""
        return (job.project_id, job.demand) in self._waiting

    def on_room(self, room: Room) -> bool:
        return self._on(room.project_id, room.offer)

    def on_offer(self, offer: Offer) -> bool:
        return self._on(None, offer)

    def _on(self, project_id: str | None, offer: Offer) -> bool:
        """Asked again and again while claims are added: only the new ones are looked at."""
        looked_at, claimed = self._known.get((project_id, offer), (0, False))
        if not claimed and looked_at < len(self._waiting):
            fresh = list(self._waiting)[looked_at:]
            claimed = any(project_id in (None, project) and fits(demand, offer) for project, demand in fresh)
            self._known[project_id, offer] = len(self._waiting), claimed
        return claimed


class _Pass:
    """One pass over the queue."""

    def __init__(
        self, rooms: Sequence[Room], offers: Sequence[Offer], in_use: Mapping[OfferName, int], sold_out: Sequence[Offer]
    ) -> None:
        self._rooms = list(rooms)
        self._open = [room for room in rooms if not room.is_full]
        self._claims = _Claims()
        self._market = _Market(offers, in_use, self._claims)
        self._sold_out = sold_out
        self._placement = Placement()

    def run(self, queue: Iterable[Job]) -> Placement:
        for gang in _gangs(queue):
            if self._claims.has(gang[0]):
                self._placement.waiting.setdefault(gang[0].run_id, BEHIND)
            elif not self._place(gang):
                self._give_up_or_wait(gang)
            self._open = [room for room in self._open if not room.is_full and not self._claims.on_room(room)]
            if not self._open and not self._market.is_open:
                break
        return self._placement

    def _place(self, gang: list[Job]) -> bool:
        taken: list[tuple[Job, Room, Share]] = []
        bought: list[Room] = []
        for job in gang:
            found = _room_for(job, [*self._open, *bought])
            if found is None:
                found = self._market.buy(job, number=len(self._placement.bought) + len(bought))
                bought += [found[0]] if found is not None else []
            if found is None:
                for _, room, share in taken:
                    room.give_back(share)
                for room in bought:
                    self._market.give_back(room.offer)
                return False
            room, share = found
            room.take(share)
            taken.append((job, room, share))
        self._open += bought
        self._placement.bought += bought
        self._placement.placed += [Placed(job, room.key, share) for job, room, share in taken]
        return True

    def _give_up_or_wait(self, gang: list[Job]) -> None:
        job = gang[0]
        could = [
            room for room in self._rooms if room.project_id in (None, job.project_id) and fits(job.demand, room.offer)
        ]
        buyable = self._market.fitting(job.demand)
        if not could and not buyable and any(fits(job.demand, offer) for offer in self._sold_out):
            self._placement.hopeless += gang
            return
        self._placement.waiting[job.run_id] = _why(gang, could, buyable)
        self._claims.add(job)


BEHIND = "earlier runs wait for the same machines"


def _why(gang: list[Job], could: Sequence[Room], buyable: Sequence[Offer]) -> str:
    """Why a gang waits, given the machines it could use were they free, and the offers it could have bought."""
    job = gang[0]
    needs = f"{len(gang)} nodes need room at once; " if len(gang) > 1 else ""
    shared = [room for room in could if room.offer.shared]
    if shared:
        best = max(shared, key=lambda room: (room.cpus, room.memory_mib))
        share = share_of(job.demand, best.offer)
        free = f"{max(0, best.cpus):g} of {best.offer.resources.cpus} CPUs and {size(max(0, best.memory_mib))} are free"
        cpus = f"{share.cpus:g} CPU{'' if share.cpus == 1 else 's'}"
        return f"{needs}asks for {cpus} and {size(share.memory_mib)}; on {_title(best.offer)} {free}"
    if could:
        return f"{needs}every machine that fits is in use ({len(could)})"
    if buyable:
        limited = ", ".join(f"{offer.machines_max} of {_title(offer)}" for offer in buyable[:3])
        return f"{needs}no more than {limited} may exist at once, and others have them"
    return f"{needs}no backend offers a machine that fits just now"


def _title(offer: Offer) -> str:
    return offer.backend if offer.instance_type == offer.backend else f"{offer.backend} {offer.instance_type}"


def _room_for(job: Job, rooms: Sequence[Room]) -> tuple[Room, Share] | None:
    """The cheapest existing machine with room, the fullest first among equals, so that large gaps stay whole."""
    fitting = []
    for room in rooms:
        if room.is_full or room.project_id not in (None, job.project_id):
            continue
        share = room.share_for(job.demand)
        if share is not None and fits(job.demand, room.offer):
            fitting.append((room, share))
    return min(fitting, key=lambda found: (found[0].offer.price, found[0].cpus, found[0].key), default=None)


class _Market:
    """The offers, cheapest first, and how many of each may still be bought."""

    def __init__(self, offers: Sequence[Offer], in_use: Mapping[OfferName, int], claims: _Claims) -> None:
        self._offers = sorted(offers, key=lambda offer: (offer.price, offer.backend, offer.region, offer.instance_type))
        self._left = {
            offer.name: None if offer.machines_max is None else offer.machines_max - in_use.get(offer.name, 0)
            for offer in offers
        }
        self._claims = claims

    @property
    def is_open(self) -> bool:
        return any(self._has(offer) and not self._claims.on_offer(offer) for offer in self._offers)

    def fitting(self, demand: Demand) -> list[Offer]:
        """What could be bought for it, were there no limits."""
        return [offer for offer in self._offers if fits(demand, offer)]

    def buy(self, job: Job, *, number: int) -> tuple[Room, Share] | None:
        for offer in self._offers:
            if job.demand.reuse_only and not offer.shared:  # what is shared was there before
                continue
            if self._has(offer) and fits(job.demand, offer) and not self._claims.on_offer(offer):
                self._change(offer, -1)
                room = empty_room(f"new-{number}", offer, None if offer.shared else job.project_id)
                share = room.share_for(job.demand)
                assert share is not None, "an empty machine that fits has room"
                return room, share
        return None

    def give_back(self, offer: Offer) -> None:
        self._change(offer, 1)

    def _has(self, offer: Offer) -> bool:
        left = self._left[offer.name]
        return left is None or left > 0

    def _change(self, offer: Offer, by: int) -> None:
        left = self._left.get(offer.name)
        if left is not None:
            self._left[offer.name] = left + by
