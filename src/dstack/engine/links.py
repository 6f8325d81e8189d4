"""Which instances have a live link: all that have a machine, and no others."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from dstack.domain.objects import Instance
from dstack.hosts.link import Connector, Inbox, Link
from dstack.hosts.local import LocalConnector
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.store import commits, objects
from dstack.store.db import Database
from dstack.store.tx import Notices, Tx

log = logging.getLogger(__name__)

AFTER_TROUBLE = timedelta(seconds=10)


def connector_for(instance: Instance) -> Connector:
    """The way to an instance's agent."""
    assert instance.machine_id is not None
    return LocalConnector(Path(instance.machine_id))


def _silent_from_now_on(tx: Tx) -> list[Instance]:
    """While no server was there, nobody could hear an agent: its silence counts from now until it answers."""
    for instance in objects.live_instances(tx):
        if instance.machine_id is not None:
            commits.record(tx, replace(instance, unreachable_since=tx.clock.now()))
    return objects.live_instances(tx)


class Links:
    """The links there are, by instance."""

    def __init__(
        self,
        db: Database,
        inbox: Inbox,
        clock: Clock,
        connector_for: Callable[[Instance], Connector] = connector_for,
    ) -> None:
        self._db = db
        self._inbox = inbox
        self._clock = clock
        self._connector_for = connector_for
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        self._tasks = TaskGroup()
        self._changed: set[str] = set()
        self._woken = asyncio.Event()

    async def start(self) -> None:
        """Link to every machine there is, and from now on to each that comes."""
        self._db.listen(self._hear)
        for instance in await self._db.write(_silent_from_now_on):
            await self._keep(instance)
        self._tasks.start("links", self._run())

    def _hear(self, notices: Notices) -> None:
        if notices.instances:
            self._changed |= notices.instances
            self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            changed, self._changed = self._changed, set()
            try:
                instances = await self._db.read(partial(objects.instances_by_id, ids=changed))
            except DatabaseError:
                log.exception("The database does not answer; tried again in %s", AFTER_TROUBLE)
                self._changed |= changed
                self._woken.set()
                await self._clock.sleep(AFTER_TROUBLE)
                continue
            for instance in instances.values():
                await self._keep(instance)

    async def _keep(self, instance: Instance) -> None:
        if instance.finished_at is not None:
            await self.drop(instance.id)
        elif instance.machine_id is not None and instance.takes_jobs:
            self.follow(instance)

    def find(self, instance_id: str) -> Link | None:
        """The link to an instance, up or trying to be."""
        found = self._links.get(instance_id)
        return None if found is None else found[0]

    def follow(self, instance: Instance) -> Link:
        """The link to an instance; opened where there is none."""
        found = self._links.get(instance.id)
        if found is None:
            link = Link(instance.id, self._connector_for(instance), self._inbox, self._clock)
            found = link, self._tasks.start(f"link to {instance.id}", link.run())
            self._links[instance.id] = found
        return found[0]

    async def drop(self, instance_id: str) -> None:
        """Close the link to an instance, where there is one."""
        found = self._links.pop(instance_id, None)
        if found is not None:
            found[1].cancel()
            await asyncio.wait([found[1]])

    async def close(self) -> None:
        """Close all links; the agents go on without us."""
        self._links.clear()
        await self._tasks.close()
