"""Instances: their rows, the view of their steps, and the objects that depend on them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Row

from dstack.domain.machines import address_of_json, address_to_json
from dstack.domain.objects import Instance, InstanceView
from dstack.domain.offers import offer_of_json
from dstack.kit.ids import Ids, short_id
from dstack.kit.plain import to_plain
from dstack.protocol.agent import HostResources
from dstack.protocol.statuses import InstanceReason, InstanceStatus
from dstack.store import intents, objects, tables, wakes
from dstack.store.kinds.kind import Kind, Place
from dstack.store.objects import IN_USE, JOBS_ON, LIVE_INSTANCES, ROOM, SOLD_OUT, UNANSWERED
from dstack.store.rows import Column, Rows
from dstack.store.tx import Tx


def _instance_of(row: Row[Any]) -> Instance:
    return Instance(
        id=row.id,
        project_id=row.project_id,
        offer=offer_of_json(row.offer),
        host=None if row.host is None else msgspec.convert(row.host, HostResources),
        status=InstanceStatus(row.status),
        status_since=row.status_since,
        created_at=row.created_at,
        idle_duration=None if row.idle_duration_s is None else timedelta(seconds=row.idle_duration_s),
        machine_id=row.machine_id,
        address=address_of_json(row.address),
        agent_seen_at=row.agent_seen_at,
        unreachable_since=row.unreachable_since,
        gone_at=row.gone_at,
        failed_starts=row.failed_starts,
        rests_until=row.rests_until,
        drain_asked_at=row.drain_asked_at,
        ssh_port=row.ssh_port,
        ssh_host_key=row.ssh_host_key,
        reason=None if row.reason is None else InstanceReason(row.reason),
        detail=row.detail,
        finished_at=row.finished_at,
        version=row.version,
    )


_COLUMNS: dict[str, Column] = {
    "offer": lambda offer: {"offer": to_plain(offer), "backend": offer.backend_id},
    "host": lambda host: {"host": None if host is None else to_plain(host)},
    "address": lambda address: {"address": address_to_json(address)},
    "idle_duration": lambda span: {"idle_duration_s": None if span is None else span.total_seconds()},
}


def _view_of(tx: Tx, instance: Instance, ids: Ids) -> InstanceView:
    """An instance with its unfinished jobs and the outcomes of its intents."""
    jobs = tuple(objects.unfinished_jobs_on(tx, instance.id))
    return InstanceView(instance, jobs, intents.outcomes_of(tx, "instance", instance.id), tx.clock.now())


def _read_ahead(tx: Tx, ids: Sequence[str]) -> None:
    found = objects.instances_by_id(tx, ids)
    objects.unfinished_jobs_on_each(tx, found)
    intents.read_ahead(tx, "instance", list(found))


def _born(tx: Tx, instance: Instance) -> None:
    objects.append(tx, (LIVE_INSTANCES, ""), instance.id)
    tx.lists[JOBS_ON, instance.id] = ()
    tx.known.pop((IN_USE, ""), None)
    tx.notices.instances.add(instance.id)


def _changed(tx: Tx, instance: Instance, old: Instance) -> None:
    """Its jobs, and the gangs that wait for it; those who follow a run see why its machine is not there yet."""
    tx.notices.instances.add(instance.id)
    tx.known.pop((ROOM, instance.id), None)
    for job in objects.unfinished_jobs_on(tx, instance.id):
        if instance.detail != old.detail:
            tx.notices.changed.add(job.run_id)
        gang = objects.jobs_of_run(tx, job.run_id) if job.nodes > 1 else [job]
        for node in gang:
            wakes.add(tx, "job", node.id)
    if instance.status != old.status and InstanceReason.LAUNCH_TIMEOUT in (instance.reason, old.reason):
        tx.known.pop((UNANSWERED, ""), None)
    if instance.status != old.status and instance.status is InstanceStatus.TERMINATED:
        objects.remove(tx, (LIVE_INSTANCES, ""), instance.id)
        tx.known.pop((SOLD_OUT, ""), None)
        tx.known.pop((IN_USE, ""), None)
        wakes.add(tx, "scheduler", "placement")
    if _openness(instance) != _openness(old):  # a waiting job may fit now
        wakes.add(tx, "scheduler", "placement")


def _openness(instance: Instance) -> tuple[object, ...]:
    return instance.host, instance.rests_until, instance.drain_asked_at


INSTANCE = Kind(
    Rows("instance", Instance, tables.instances, _instance_of, _COLUMNS),
    title=lambda instance: f"instance {instance.offer.title} {short_id(instance.id)}",
    view=_view_of,
    read_ahead=_read_ahead,
    place=lambda instance: Place(instance_id=instance.id),
    born=_born,
    changed=_changed,
)
