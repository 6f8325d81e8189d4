"""Which instances have a live link: all whose machines have an address, and no others."""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta
from functools import partial

from dstack.domain.objects import Instance
from dstack.engine.leases import Leases
from dstack.errors import DatabaseUnavailable
from dstack.hosts.link import Link
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.store import commits, objects
from dstack.store.db import Database
from dstack.store.notices import Notices
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

AFTER_TROUBLE = timedelta(seconds=10)


class Links:
    """The links there are, by instance."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        leases: Leases,
        make_link: Callable[[Instance, int], Link],
    ) -> None:
        """Args: `make_link`: makes the link to an instance, with the epoch of its lease."""
        self._db = db
        self._clock = clock
        self._leases = leases
        self._make_link = make_link
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        self._tasks = TaskGroup()
        self._changed: set[str] = set()
        self._is_behind = False
        """Something may have been missed: machines may be there that nobody told us of."""
        self._woken = asyncio.Event()
        leases.when_gained(self._link_to_all)
        leases.when_lost(self._drop_lost)

    def start(self) -> None:
        """Link from now on to each machine that comes."""
        self._db.listen(self._hear)
        self._tasks.keep("links", self._run)

    async def _link_to_all(self) -> None:
        """While nobody saw to a machine, nobody could hear its agent: its silence counts from now until it answers."""

        live = await self._db.recall(objects.live_instances)
        gained = [one.id for one in live if self._leases.owns(one.id) and one.id not in self._links]

        def silent_from_now_on(tx: Tx) -> list[Instance]:
            found = [one for one in objects.instances_by_id(tx, gained).values() if one.address]
            for instance in found:
                if instance.finished_at is None:
                    commits.record(tx, replace(instance, unreachable_since=tx.clock.now()))
            return found

        for instance in await self._db.write(silent_from_now_on):
            await self._keep(instance)

    async def _drop_lost(self) -> None:
        for instance_id in [id for id in self._links if not self._leases.owns(id)]:
            await self.drop(instance_id)

    def _hear(self, notices: Notices) -> None:
        if notices.everything:
            self._changed |= set(self._links)
            self._is_behind = True
        if notices.instances or notices.everything:
            self._changed |= notices.instances
            self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            changed, self._changed = self._changed, set()
            is_behind, self._is_behind = self._is_behind, False
            try:
                instances = await self._db.recall(partial(_look_up, changed=changed, all_live=is_behind))
                for instance in instances.values():
                    await self._keep(instance)
            except DatabaseUnavailable:
                log.exception("The database does not answer; tried again in %s", AFTER_TROUBLE)
                self._look_again(changed, is_behind)
                await self._clock.sleep(AFTER_TROUBLE)
            except Exception:
                self._look_again(changed, is_behind)
                raise

    def _look_again(self, changed: set[str], is_behind: bool) -> None:
        self._changed |= changed
        self._is_behind |= is_behind
        self._woken.set()

    async def _keep(self, instance: Instance) -> None:
        if instance.finished_at is not None:
            await self.drop(instance.id)
        elif instance.address is not None and instance.takes_jobs and self._leases.owns(instance.id):
            self.follow(instance)

    def find(self, instance_id: str) -> Link | None:
        """The link to an instance, up or trying to be."""
        found = self._links.get(instance_id)
        return None if found is None else found[0]

    def follow(self, instance: Instance) -> Link:
        """The link to an instance; opened where there is none."""
        found = self._links.get(instance.id)
        if found is None:
            link = self._make_link(instance, self._leases.epoch_of(instance.id))
            found = link, self._tasks.start(f"link to {instance.id}", link.run())
            self._links[instance.id] = found
        return found[0]

    def doubt(self, instance_id: str) -> None:
        """Connect anew, where there is a link: one that only seems to be up is found to be down."""
        if (link := self.find(instance_id)) is not None:
            link.break_off()

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


def _look_up(tx: Tx, changed: Collection[str], all_live: bool) -> dict[str, Instance]:
    live = objects.live_ids(tx) if all_live else ()
    return objects.instances_by_id(tx, sorted({*changed, *live}))
