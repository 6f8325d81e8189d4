"""Runs the placement pass over the queue as it is, and commits what it says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dstack.domain.giving_way import make_way
from dstack.domain.objects import Instance, Job, Next
from dstack.domain.offers import Offer
from dstack.domain.placement import Placement, place
from dstack.domain.rooms import Room, room_of
from dstack.kit.ids import Ids
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus
from dstack.store import commits, objects, queue
from dstack.store.tx import Tx

SOLD_OUT_FOR = timedelta(minutes=2)
"""How long an offer of which there was none left is not asked for again."""

SOLD_OUT = "every offer that fits is sold out"

GAVE_WAY = "it was idle, and a job waits that cannot use it"

AHEAD_MAX = 1000
"""Behind more jobs than this a forecast is not worth reading them all."""


def schedule(tx: Tx, offers: Sequence[Offer], ids: Ids, check: commits.Check, closed: Mapping[str, str]) -> Placement:
    """Give every job that has a place now its place, on a machine there is or on one to be bought.

    Args:
        closed: the backends whose machines take no new jobs, each with the reason.
    """
    if queue.is_empty(tx):
        return Placement()
    placement = _pass(tx, lambda: queue.of(tx), offers, closed)
    _commit(tx, placement, ids, check)
    return placement


def would_wait(
    tx: Tx, offers: Sequence[Offer], newcomers: Sequence[Job], priority: int, closed: Mapping[str, str]
) -> str | None:
    """Return why jobs would wait if they were submitted now; None where they have room. Keeps nothing of the pass.

    Args:
        closed: the backends whose machines take no new jobs, each with the reason.
    """
    ahead = queue.ahead_of(tx, priority)
    if len(ahead) > AHEAD_MAX:
        return f"{len(ahead)} jobs wait in the queue already"
    earlier = [job for id in ahead if (job := objects.find_job(tx, id)) is not None]
    placement = _pass(tx, lambda: [*earlier, *newcomers], offers, closed)
    first = newcomers[0]
    if any(placed.job.id == first.id for placed in placement.placed):
        return None
    if any(job.id == first.id for job in placement.hopeless):
        return SOLD_OUT
    return placement.waiting.get(first.run_id, "earlier runs wait too")


def _pass(
    tx: Tx, waiting: Callable[[], Iterable[Job]], offers: Sequence[Offer], closed: Mapping[str, str]
) -> Placement:
    sold_out = {offer.name for offer in objects.offers_sold_out(tx, tx.clock.now() - SOLD_OUT_FOR)}
    buyable = [offer for offer in offers if offer.name not in sold_out]
    rooms, in_use = _rooms(tx, closed), objects.machines_in_use(tx)
    unavailable = [offer for offer in offers if offer.name in sold_out]
    placement = place(waiting(), rooms, buyable, in_use, unavailable, tuple(closed.values()))
    make_way(placement, waiting(), rooms, buyable, in_use)
    return placement


def _rooms(tx: Tx, closed: Mapping[str, str]) -> list[Room]:
    """Return the free capacity of the existing machines, counted again only where something has changed."""
    rooms = []
    for id in objects.live_ids(tx):
        room: Room | None = tx.known.get((objects.ROOM, id))
        if room is None:
            instance = objects.find_instance(tx, id)
            if instance is None or not instance.takes_jobs:
                continue
            room = tx.known[objects.ROOM, id] = room_of(instance, objects.unfinished_jobs_on(tx, id))
        if room.offer.backend in closed:
            room = replace(room, rests=closed[room.offer.backend])
        rooms.append(room if room.is_full else room.copy())  # the pass changes what has room
    return rooms


def _commit(tx: Tx, placement: Placement, ids: Ids, check: commits.Check) -> None:
    now = tx.clock.now()
    new_ids = {room.key: ids.new_id() for room in placement.bought}
    firsts = {placed.key: placed.job for placed in reversed(placement.placed)}
    born = (_born(room, new_ids[room.key], firsts[room.key], now) for room in placement.bought)
    commits.commit(tx, Next(tuple(born)), check)
    for placed in placement.placed:
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
