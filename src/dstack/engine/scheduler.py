"""Runs the placement pass over the queue as it is, and commits what it says."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dstack.domain.objects import Instance, Job, Next
from dstack.domain.offers import Offer
from dstack.domain.placement import Room, place, rooms_of
from dstack.kit.ids import Ids
from dstack.protocol.statuses import InstanceStatus, JobStatus
from dstack.store import commits, objects
from dstack.store.tx import Tx


def schedule(tx: Tx, offers: Sequence[Offer], ids: Ids, check: commits.Check) -> None:
    """Give every job that has a place now its place, on a machine there is or on one to be bought."""
    if not objects.is_anyone_queued(tx):
        return
    instances = objects.live_instances(tx)
    jobs = [job for instance in instances for job in objects.unfinished_jobs_on(tx, instance.id)]
    queue = (queued.job for queued in objects.queue_of(tx))
    placement = place(queue, rooms_of(instances, jobs), offers, [instance.offer for instance in instances])
    now = tx.clock.now()
    new_ids = {room.key: ids.new_id() for room in placement.bought}
    firsts = {placed.key: placed.job for placed in reversed(placement.placed)}
    born = (_born(room, new_ids[room.key], firsts[room.key], now) for room in placement.bought)
    commits.commit(tx, Next(tuple(born)), check)
    for placed in placement.placed:
        instance_id = new_ids.get(placed.key, placed.key)
        provisioning = replace(
            placed.job,
            status=JobStatus.PROVISIONING,
            status_since=now,
            instance_id=instance_id,
            share=placed.share,
        )
        commits.commit(tx, Next((provisioning,)), check)


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
