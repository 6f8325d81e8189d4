"""Runs placement passes over the queue, and commits their decisions.

A pass runs inside a commit, and holds up every other write. So it has a bound of time and of jobs. A pass that reaches
a bound continues in a later commit with the rest of the queue, under the claims of those before it that wait. Only once
it is complete the next pass begins at the head: so no change of the queue keeps its tail waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dstack.domain.giving_way import make_way
from dstack.domain.market import Market
from dstack.domain.objects import Instance, Job, Next
from dstack.domain.placement import JobQueue, Placement, Queue, Rest, place
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

GAVE_WAY = "it was idle, and a job waits that cannot use it"

AHEAD_MAX = 1000
"""The bound of jobs ahead of a new one for a forecast: with more of them, reading them all is not worth it."""

PLACEMENT, REST = ("scheduler", "placement"), ("scheduler", "rest")
"""The wakes of a new pass, and of the rest of one."""


class Scheduler:
    """The passes of one server, one after the other."""

    def __init__(self, ids: Ids, pass_for: timedelta = PASS_FOR) -> None:
        self._ids = ids
        self._pass_for = pass_for
        self._left = pass_for
        self._rest: Rest | None = None
        self._is_stale = False
        """Whether something has changed since the pass began whose rest remains."""
        self._found: dict[str, str] = {}
        self.waiting: Mapping[str, str] = {}
        """Why runs wait in the queue, by id, as the last pass over it found: those at its head."""

    @property
    def has_rest(self) -> bool:
        """Whether the last pass has left a part of the queue for another commit."""
        return self._rest is not None

    def begin(self) -> None:
        """Note that another commit has begun, with time of its own."""
        self._left = self._pass_for

    def look(
        self, tx: Tx, market: Market, check: commits.Check, closed: Mapping[str, str], *, is_change: bool = True
    ) -> None:
        """Give each job that has a place now its place, on an existing machine or on one to be bought.

        Args:
            closed: the backends whose machines take no new jobs, each with the reason.
            is_change: whether something has changed, so that the head of the queue is to be looked at.
        """
        rest, self._rest = self._rest, None
        if rest is None:
            self._found, self._is_stale = {}, False
        else:
            self._is_stale = self._is_stale or is_change
        if not queue.is_empty(tx):
            self._place(tx, market, check, closed, rest)
        if self._rest is not None:
            self.waiting = {**self.waiting, **self._found}
            wakes.add(tx, *REST)
            return
        self.waiting = self._found
        if self._is_stale:
            wakes.add(tx, *PLACEMENT)

    def _place(
        self, tx: Tx, market: Market, check: commits.Check, closed: Mapping[str, str], rest: Rest | None
    ) -> None:
        timer = _Timer(tx, self._left)
        placement = _pass(tx, queue.Waiting(tx), market, closed, timer, rest)
        self._left = timer.left
        self._rest = placement.rest
        self._found |= placement.waiting
        _commit(tx, placement, self._ids, check)


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
        return placed >= PLACED_MAX or not self.left


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
    earlier = [job for gang in ahead for job in ahead.jobs_of(gang)]
    placement = _pass(tx, JobQueue([*earlier, *newcomers]), market, closed, _Timer(tx, PASS_FOR))
    first = newcomers[0]
    if any(placed.job.id == first.id for placed in placement.placed):
        return None
    if any(job.id == first.id for job in placement.hopeless):
        return SOLD_OUT
    return placement.waiting.get(first.run_id, too_many if placement.rest else "earlier runs wait too")


def _pass(
    tx: Tx, waiting: Queue, market: Market, closed: Mapping[str, str], timer: _Timer, rest: Rest | None = None
) -> Placement:
    sold_out = [offer.name for offer in objects.offers_sold_out(tx, tx.clock.now() - SOLD_OUT_FOR)]
    rooms, in_use = _rooms(tx, closed), objects.machines_in_use(tx)
    remaining = waiting if rest is None else queue.Waiting(tx, after=rest.after.position)
    claims = () if rest is None else rest.waiting
    timer.start()
    placement = place(
        *(remaining, rooms, market, in_use, sold_out, tuple(closed.values())),
        waiting=claims,
        is_over=timer.is_over,
    )
    if placement.rest is None:
        buyable = market.without(market.named(sold_out))
        make_way(placement, waiting, rooms, buyable, in_use, is_over=timer.is_over)
    return placement


def _rooms(tx: Tx, closed: Mapping[str, str]) -> list[Room]:
    """Return the free capacity of all machines; counted again only where something has changed."""
    ids = objects.live_ids(tx)
    unknown = [id for id in ids if (objects.ROOM, id) not in tx.known]
    if unknown:
        instances = [one for one in objects.instances_by_id(tx, unknown).values() if one.takes_jobs]
        jobs = objects.unfinished_jobs_on_each(tx, [one.id for one in instances])
        for one in instances:
            tx.known[objects.ROOM, one.id] = room_of(one, jobs[one.id])
    rooms: list[Room] = [room for id in ids if (room := tx.known.get((objects.ROOM, id))) is not None]
    if closed:
        rooms = [replace(room, rests=closed.get(room.offer.backend_id, room.rests)) for room in rooms]
    return [room if room.is_full else room.copy() for room in rooms]  # a pass changes the others


def _commit(tx: Tx, placement: Placement, ids: Ids, check: commits.Check) -> None:
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
        commits.commit(tx, Next((replace(ending, detail=SOLD_OUT),)), check)


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
