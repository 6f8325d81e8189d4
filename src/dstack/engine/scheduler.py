"""Runs placement passes over the queue, and commits their decisions.

A pass runs inside a commit, and holds up every other write. So it has a bound of time and of jobs. A pass that reaches
a bound continues in a later commit: the lines that were found to wait claim what they could use, and are not looked at
again. Only once it is complete the next pass looks at all of them: so no change of the queue keeps its tail waiting.

A pass after an arrival does the same with the lines that wait: nothing was freed for them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dstack.domain.giving_way import make_way
from dstack.domain.market import Market
from dstack.domain.objects import Instance, Job, Next
from dstack.domain.offers import Offer, OfferName
from dstack.domain.placement import BEHIND, NOTHING, JobQueue, Known, Line, Placement, Queue, Reason, place
from dstack.domain.rooms import Room, room_of
from dstack.kit.ids import Ids
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus
from dstack.store import backends, commits, objects, queue, wakes
from dstack.store.tx import Tx

PASS_FOR = timedelta(milliseconds=50)
"""The bound of the passes in one commit. Leases are renewed every second, and expire after six."""

PLACED_MAX = 200
"""The bound of jobs that one pass places: each is written, and its step runs, in the same commit."""

SOLD_OUT_FOR = timedelta(minutes=2)
"""The time for which an offer is not requested again after its backend had no machine of it."""

SOLD_OUT = "every offer that fits is sold out"
UNANSWERED = "every offer that fits is sold out, or its backend does not answer launches"

GAVE_WAY = "it was idle, and a job waits that cannot use it"

AHEAD_MAX = 1000
"""The bound of jobs ahead of a new one for a forecast: with more of them, reading them all is not worth it."""

PLACEMENT, ARRIVAL, REST = ("scheduler", "placement"), ("scheduler", "arrival"), ("scheduler", "rest")
"""The wakes of a pass: after any change, after changes that only added jobs, and for the rest of a pass."""

_KNOWN = "waiting", ""
"""The key of the lines that wait in what the writer remembers. It forgets them with all else, after trouble and where
another server has written."""


_OFFERS = "offers of machines", ""
"""The key of the offers that rooms share: a pass groups machines by them."""
OFFERS_SHARED_MAX = 1000


@dataclass(frozen=True, slots=True)
class _Basis:
    """All that a pass depends on, besides the queue and the machines, whose changes wake it."""

    version: int
    closed: tuple[str, ...]
    sold_out: tuple[OfferName, ...]


class Scheduler:
    """The passes of one server, one after the other."""

    def __init__(self, ids: Ids, pass_for: timedelta = PASS_FOR) -> None:
        self._ids = ids
        self._pass_for = pass_for
        self._left = pass_for
        self._begun: Known | None = None
        """The lines that wait, as far as a pass has come that reached a bound; None after a complete one."""
        self._is_stale = False
        """Whether something has changed since that pass began."""
        self._reasons: Mapping[str, Reason | str] = {}
        """Why runs wait, by id, as the last pass found of the first ones in their lines."""
        self._waiting: Collection[Line] = ()
        self._lines: Mapping[str, Line] = {}

    def why_waiting(self, run_id: str) -> str | None:
        """Return why a run waits in the queue, as the last pass over it found; None if it was not looked at."""
        reason = self._reasons.get(run_id)
        if reason is None:
            return BEHIND if self._lines.get(run_id) in self._waiting else None
        return str(reason)

    @property
    def has_rest(self) -> bool:
        """Whether the last pass has left a part of the queue for another commit."""
        return self._begun is not None

    def begin(self) -> None:
        """Note that another commit has begun, with time of its own."""
        self._left = self._pass_for

    def look(
        self,
        tx: Tx,
        market: Market,
        check: commits.Check,
        closed: Mapping[str, str],
        wake: tuple[str, str] = PLACEMENT,
    ) -> None:
        """Give each job that has a place now its place, on an existing machine or on one to be bought.

        Args:
            closed: the backends whose machines take no new jobs, each with the reason.
            wake: what has happened.
        """
        begun, self._begun = self._begun, None
        self._is_stale = begun is not None and (self._is_stale or wake != REST)
        if queue.is_empty(tx):
            self._reasons, self._waiting = {}, ()
            return
        if wake != ARRIVAL or begun is not None:
            tx.known.pop(_KNOWN, None)
        self._place(tx, market, check, closed, begun)
        if self._begun is not None:
            wakes.add(tx, *REST)
        elif self._is_stale:
            wakes.add(tx, *PLACEMENT)

    def _place(
        self, tx: Tx, market: Market, check: commits.Check, closed: Mapping[str, str], begun: Known | None
    ) -> None:
        scene = _Scene.of(tx, market, closed)
        basis, known = tx.known.pop(_KNOWN, (None, NOTHING))
        if begun is not None or basis != scene.basis:
            known = begun or NOTHING
        timer = _Timer(tx, self._left)
        placement = scene.decide(queue.Waiting(tx), timer, known)
        self._left = timer.left
        self._waiting, self._lines = placement.lines, queue.lines(tx)
        if known.lines or not placement.is_complete:  # runs that this pass has not looked at wait as they did
            before = {id: reason for id, reason in self._reasons.items() if id in self._lines}
            self._reasons = before | placement.reasons
        else:
            self._reasons = placement.reasons
        _commit(tx, placement, self._ids, check, why_hopeless=scene.why_hopeless)
        if placement.is_complete:
            tx.known[_KNOWN] = scene.basis, placement.known_after(market.index)
        else:
            self._begun = placement.known(market.index)


@dataclass(frozen=True, slots=True)
class _Scene:
    """All that a pass decides on, as it is in a transaction."""

    tx: Tx
    market: Market
    closed: Mapping[str, str]
    rooms: Sequence[Room]
    in_use: Mapping[OfferName, int]
    sold_out: tuple[OfferName, ...]
    """The offers that are not requested now: those with unanswered launches among them."""
    has_unanswered: bool

    @classmethod
    def of(cls, tx: Tx, market: Market, closed: Mapping[str, str]) -> "_Scene":
        unanswered = objects.offers_unanswered(tx)
        in_vain = [*objects.offers_sold_out(tx, tx.clock.now() - SOLD_OUT_FOR), *unanswered]
        sold_out = tuple(offer.name for offer in in_vain)
        market = market.shunning(unanswered)
        return cls(tx, market, closed, _rooms(tx, closed), objects.machines_in_use(tx), sold_out, bool(unanswered))

    @property
    def why_hopeless(self) -> str:
        """Why a job that nothing is left for has no machine."""
        return UNANSWERED if self.has_unanswered else SOLD_OUT

    @property
    def basis(self) -> _Basis:
        return _Basis(self.market.version, tuple(self.closed), self.sold_out)

    def decide(self, waiting: Queue, timer: "_Timer", known: Known = NOTHING) -> Placement:
        """Return the decisions of a pass; `make_way` follows once it is complete."""
        timer.start()
        placement = place(
            *(waiting, self.rooms, self.market, self.in_use, self.sold_out, tuple(self.closed.values())),
            known=known,
            is_over=timer.is_over,
        )
        if placement.is_complete:
            buyable = self.market.without(self.market.named(self.sold_out))
            make_way(placement, waiting, self.rooms, buyable, self.in_use, is_over=timer.is_over)
        return placement


class _Timer:
    """The bounds of a pass. They count from the first question, when all that it needs has been read."""

    def __init__(self, tx: Tx, span: timedelta) -> None:
        self._clock = tx.clock
        self._span = span
        self._until: datetime | None = None

    def start(self) -> None:
        """Begin to count."""
        self._until = self._clock.now() + self._span

    @property
    def left(self) -> timedelta:
        """Return the time that is left."""
        return self._span if self._until is None else max(self._until - self._clock.now(), timedelta(0))

    def is_over(self, placed: int) -> bool:
        """Return whether the time has passed, or so many jobs are placed that the rest is for another commit."""
        return placed >= PLACED_MAX or (self._until is not None and self._clock.now() >= self._until)


def would_wait(
    tx: Tx, market: Market, newcomers: Sequence[Job], priority: int, closed: Mapping[str, str]
) -> str | None:
    """Return why jobs would wait if they were submitted now; None where they have room. Keeps nothing of the pass.

    Args:
        closed: the backends whose machines take no new jobs, each with the reason.
    """
    ahead, number = queue.ahead_of(tx, priority)
    too_many = f"{number} jobs wait in the queue already"
    if number > AHEAD_MAX:
        return too_many
    earlier = [job for gang in ahead.gangs(()) for job in ahead.jobs_of(gang)]
    scene = _Scene.of(tx, market, closed)
    placement = scene.decide(JobQueue([*earlier, *newcomers]), _Timer(tx, PASS_FOR))
    first = newcomers[0]
    if any(placed.job.id == first.id for placed in placement.placed):
        return None
    if any(job.id == first.id for job in placement.hopeless):
        return scene.why_hopeless
    if Line(first.project_id, first.demand) in placement.lines:
        return str(placement.reasons.get(first.run_id, BEHIND))
    return too_many if not placement.is_complete else "earlier runs wait too"


def _rooms(tx: Tx, closed: Mapping[str, str]) -> list[Room]:
    """Return the free capacity of all machines; counted again only where something has changed."""
    ids = objects.live_ids(tx)
    found: list[Room | None] = [tx.known.get((objects.ROOM, id)) for id in ids]
    unknown = [id for id, room in zip(ids, found, strict=True) if room is None]
    if unknown:
        instances = [one for one in objects.instances_by_id(tx, unknown).values() if one.takes_jobs]
        jobs = objects.unfinished_jobs_on_each(tx, [one.id for one in instances])
        offers: dict[Offer, Offer] = tx.known.setdefault(_OFFERS, {})
        for one in instances:
            room = room_of(one, jobs[one.id])
            tx.known[objects.ROOM, one.id] = room
            room.offer = offers.setdefault(room.offer, room.offer)
        if len(offers) > OFFERS_SHARED_MAX:
            offers.clear()
        found = [tx.known.get((objects.ROOM, id)) for id in ids]
    rooms = [room for room in found if room is not None]
    if closed:
        rooms = [replace(room, rests=why) if (why := closed.get(room.offer.backend_id)) else room for room in rooms]
    return [room if room.is_full else room.copy() for room in rooms]  # a pass changes the others


def _commit(tx: Tx, placement: Placement, ids: Ids, check: commits.Check, *, why_hopeless: str) -> None:
    now = tx.clock.now()
    # The offers may be older than the removal of their backend, and no machine may be bought after that.
    withdrawn = {room.key for room in placement.bought if not backends.sells(tx, room.offer.backend_id)}
    bought = [room for room in placement.bought if room.key not in withdrawn]
    new_ids = {room.key: ids.new_id() for room in bought}
    firsts = {placed.key: placed.job for placed in reversed(placement.placed)}
    born = (_born(room, new_ids[room.key], firsts[room.key], now) for room in bought)
    commits.commit(tx, Next(tuple(born)), check)
    for placed in placement.placed:
        if placed.key in withdrawn:
            continue  # the job stays in the queue
        provisioning = replace(
            placed.job,
            status=JobStatus.PROVISIONING,
            status_since=now,
            instance_id=new_ids.get(placed.key, placed.key),
            share=placed.share,
        )
        commits.commit(tx, Next((provisioning,)), check)
    for instance in objects.instances_by_id(tx, placement.giving_way).values():
        ending_instance = replace(instance, status=InstanceStatus.TERMINATING, status_since=now, detail=GAVE_WAY)
        commits.commit(tx, Next((replace(ending_instance, reason=InstanceReason.GAVE_WAY),)), check)
    for job in placement.hopeless:
        ending = replace(job, status=JobStatus.TERMINATING, status_since=now, reason=JobReason.NO_CAPACITY)
        commits.commit(tx, Next((replace(ending, detail=why_hopeless),)), check)


def _born(room: Room, id: str, first: Job, now: datetime) -> Instance:
    idle_duration_s = first.demand.idle_duration_s
    return Instance(
        id=id,
        project_id=room.project_id,
        offer=room.offer,
        status=InstanceStatus.PENDING,
        status_since=now,
        created_at=now,
        idle_duration=None if idle_duration_s is None else timedelta(seconds=idle_duration_s),
    )
