"""Runs the placement pass over the queue as it is, and commits what it says."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta

from dstack.domain.objects import Instance, Job, Next
from dstack.domain.offers import Offer
from dstack.domain.placement import Placement, Room, name_of, place, room_of
from dstack.kit.ids import Ids
from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus
from dstack.store import commits, objects, queue
from dstack.store.tx import Tx

SOLD_OUT_FOR = timedelta(minutes=2)
"""How long an offer of which there was none left is not asked for again."""


def schedule(tx: Tx, offers: Sequence[Offer], ids: Ids, check: commits.Check) -> Placement:
    """Give every job that has a place now its place, on a machine there is or on one to be bought."""
    if queue.is_empty(tx):
        return Placement()
    instances = objects.live_instances(tx)
    sold_out = {name_of(offer) for offer in objects.offers_sold_out(tx, tx.clock.now() - SOLD_OUT_FOR)}
    placement = place(
        queue.of(tx),
        [_room(tx, instance) for instance in instances if instance.takes_jobs],
        [offer for offer in offers if name_of(offer) not in sold_out],
        [instance.offer for instance in instances],
        [offer for offer in offers if name_of(offer) in sold_out],
    )
    _commit(tx, placement, ids, check)
    return placement


def _room(tx: Tx, instance: Instance) -> Room:
    """What is free on a machine; counted again only when something there has changed."""
    known: Room | None = tx.known.get((objects.ROOM, instance.id))
    if known is None:
        known = room_of(instance, objects.unfinished_jobs_on(tx, instance.id))
        tx.known[objects.ROOM, instance.id] = known
    room = copy(known)
    room.gpus_taken = set(known.gpus_taken)
    return room


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
    for job in placement.hopeless:
        ending = replace(job, status=JobStatus.TERMINATING, status_since=now, reason=JobReason.NO_CAPACITY)
        commits.commit(tx, Next((replace(ending, detail="every offer that fits is sold out"),)), check)


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
