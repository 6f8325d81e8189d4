"""One pass over the queue."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dstack.domain.market import EMPTY, NO_OFFERS, Index, Market, Offers, without
from dstack.domain.objects import Job
from dstack.domain.offers import OfferName, Share, gang_runtime, share_of
from dstack.domain.placement.capacity import Machines, Stock, dearness
from dstack.domain.placement.queues import Gang, JobQueue, Line, Queue
from dstack.domain.placement.waiting import BEHIND, Reason
from dstack.domain.rooms import Room
from dstack.protocol.runtimes import Runtime


@dataclass(frozen=True, slots=True)
class Known:
    """The lines that an earlier pass has found to wait."""

    lines: Mapping[Line, Any]
    """Each with the position of the gang that was looked at."""
    index: Index
    claimed: Offers
    """All offers of the index that they could use."""


NOTHING = Known({}, EMPTY.index, NO_OFFERS)


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
    reasons: dict[str, Reason | str] = field(default_factory=dict)
    """Why runs wait, by id: of the first ones in their lines."""
    lines: dict[Line, Any] = field(default_factory=dict)
    """The lines that wait, each with the position of its first gang."""
    claimed: Offers = NO_OFFERS
    """The offers that these lines could use."""
    outdated: frozenset[Line] = frozenset()
    """Those of them that could use a machine which was bought for a later one."""
    hopeless: list[Job] = field(default_factory=list)
    """The jobs for which everything that fits is sold out."""
    giving_way: list[str] = field(default_factory=list)
    """The idle machines to end, by key: others are to be bought in their place."""
    is_complete: bool = True
    """Whether the pass has reached the end of the queue, or of what could be placed."""

    def known(self, index: Index) -> Known:
        """Return what the next part of this pass need not look at again.

        Args:
            index: of the market.
        """
        return Known(self.lines, index, self.claimed)

    def known_after(self, index: Index) -> Known:
        """Return what the next pass need not look at again, where nothing but arrivals has changed."""
        if not self.outdated:
            return self.known(index)
        return Known({line: at for line, at in self.lines.items() if line not in self.outdated}, EMPTY.index, NO_OFFERS)

    @property
    def waiting(self) -> dict[str, str]:
        """Return why runs wait, in words."""
        return {id: str(reason) for id, reason in self.reasons.items()}


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
    known: Known = NOTHING,
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
        known: the lines that wait still since an earlier pass. They claim what they could use, and are not looked at
            again.
        is_over: gets the number of placed jobs after each gang that was looked at, and returns whether that is enough.
    """
    return _Pass(rooms, market, in_use, sold_out, closed, known).run(queue, is_over)


def can_ever_place(gang: Sequence[Job], market: Market) -> bool:
    """Return whether all nodes would fit together on free machines; a gang that never fits would block the queue."""
    return gang[0].demand.reuse_only or bool(place(JobQueue(gang), (), market, {}).placed)


@dataclass(slots=True)
class _Try:
    """A place for each node of a gang, as far as there was any."""

    placed: list[tuple[Job, Room, Share]] = field(default_factory=list)
    bought: list[Room] = field(default_factory=list)

    @property
    def runtime(self) -> Runtime | None:
        """Return the runtime that the machines of all nodes have; None without one."""
        return gang_runtime(self.placed[0][0].demand, [room.offer for _, room, _ in self.placed])


class _Pass:
    """One pass over the queue."""

    def __init__(
        self,
        rooms: Iterable[Room],
        market: Market,
        in_use: Mapping[OfferName, int],
        sold_out: Iterable[OfferName],
        closed: Sequence[str],
        known: Known,
    ) -> None:
        self._everything = market
        self._sold_out = market.named(sold_out)
        self._closed = closed
        self._market = market.without(self._sold_out)
        self._machines = Machines(rooms)
        self._stock = Stock(self._market, in_use)
        self._known = known
        self._placement = Placement()

    def run(self, queue: Queue, is_over: Callable[[int], bool]) -> Placement:
        lines, known = self._placement.lines, self._known.lines
        passed: list[Line] = []
        for gang in queue.gangs(lines):
            if known and known.get(gang.line) == gang.position:
                lines[gang.line] = gang.position
                passed.append(gang.line)
                continue
            if passed:
                self._claim_for(passed)
                passed.clear()
            self._look(gang, queue)
            if self._is_closed:
                break
            if is_over(len(self._placement.placed)):
                self._placement.is_complete = False
                break
        self._claim_for(passed)
        self._placement.claimed = self._stock.claimed
        if with_room := self._machines.bought & self._machines.open:
            self._placement.outdated = frozenset(line for line in lines if self._machines.serving(line) & with_room)
        return self._placement

    def _claim_for(self, lines: Sequence[Line]) -> None:
        """Keep what known lines could use from those behind them."""
        for line in lines:
            self._machines.claimed |= self._machines.serving(line)
        if len(lines) == len(self._known.lines) and self._known.index is self._market.index:
            self._stock.claimed |= self._known.claimed
        else:
            for line in lines:
                self._stock.claimed |= self._market.buyable(line.demand, line.project_id)

    @property
    def _is_closed(self) -> bool:
        """Whether nothing is left that a later gang could use."""
        if without(self._stock.open, self._stock.claimed):
            return False
        return not without(self._machines.open, self._machines.claimed)

    def _look(self, gang: Gang, queue: Queue) -> None:
        """Place a gang, or note why it waits."""
        line = gang.line
        kinds, offers = self._machines.serving(line), self._market.buyable(line.demand, line.project_id)
        with_room = 0
        is_open = bool(kinds & self._machines.open or offers & self._stock.open)
        if is_open:
            jobs = queue.jobs_of(gang)
            found = self._try_alike(jobs, without(kinds, self._machines.claimed), without(offers, self._stock.claimed))
            if len(found.placed) == len(jobs):
                self._keep(found)
                return
            self._undo(found)
            with_room = len(found.placed)
        if not kinds and not offers and self._everything.buyable(line.demand, line.project_id) & self._sold_out:
            self._placement.hopeless += queue.jobs_of(gang)
            return
        if is_open and self._could_be_placed(queue.jobs_of(gang), kinds, offers):
            self._placement.reasons[gang.run_id] = BEHIND
        else:
            self._placement.reasons[gang.run_id] = Reason(
                line.demand, len(gang.ids), with_room, self._machines, kinds, self._market, offers, self._closed
            )
        # Those behind it do not get what it could use.
        self._placement.lines[gang.line] = gang.position
        self._machines.claimed |= kinds
        self._stock.claimed |= offers

    def _could_be_placed(self, jobs: Sequence[Job], kinds: int, offers: int) -> bool:
        """Return whether a gang would have its place if earlier ones had claimed nothing."""
        if not kinds & self._machines.claimed and not offers & self._stock.claimed:
            return False
        unclaimed = self._try_alike(jobs, kinds, offers)
        self._undo(unclaimed)
        return len(unclaimed.placed) == len(jobs)

    def _try_alike(self, jobs: Sequence[Job], kinds: int, offers: int) -> _Try:
        """Take room for the nodes of a gang on machines that have one runtime for all of them.

        That runtime is a container where some machines lack the version of Python, and others the container engine.
        """
        found = self._try(jobs, kinds, offers)
        if len(found.placed) < 2 or found.runtime is not None:
            return found
        self._undo(found)
        contained = replace(jobs[0].demand, container=("`python`",))
        project_id = jobs[0].project_id
        kinds &= self._machines.serving(Line(project_id, contained))
        return self._try(jobs, kinds, offers & self._market.buyable(contained, project_id))

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
        container = found.runtime is Runtime.CONTAINER
        self._placement.placed += [
            Placed(job, room.key, replace(share, container=container)) for job, room, share in found.placed
        ]
        for room in found.bought:
            self._machines.add(room)
        for _, room, _ in found.placed:
            self._machines.changed(room)
        unclaimed = without(self._machines.bought & self._machines.open, self._machines.claimed)
        if found.bought and unclaimed:  # earlier gangs may use the rest of what was bought, and come first
            for line in self._placement.lines:
                self._machines.claimed |= self._machines.serving(line) & unclaimed

    def _undo(self, found: _Try) -> None:
        for _, room, share in found.placed:
            room.give_back(share)
        for room in found.bought:
            self._stock.give_back(room.offer)
