"""The parts of a server, put together, started and stopped in order."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from dstack import backends
from dstack.backends.base import Backend
from dstack.blobs.files import BlobFiles
from dstack.domain.objects import Instance
from dstack.engine.catalog import Catalog
from dstack.engine.effects import Effects
from dstack.engine.inbox import EngineInbox
from dstack.engine.links import Links, connector_for
from dstack.engine.loop import Engine
from dstack.engine.outbox import Outbox
from dstack.hosts.link import Connector
from dstack.kit.clock import Clock, SystemClock
from dstack.kit.ids import Ids, RandomIds
from dstack.kit.signals import Signals
from dstack.kit.tasks import TaskGroup
from dstack.logs.base import LogStore
from dstack.logs.files import LogFiles
from dstack.operations.context import Context
from dstack.operations.history import EVENTS_KEY
from dstack.server.settings import Settings
from dstack.spec.parse import configuration_of
from dstack.store import users, wakes
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.tx import Notices

log = logging.getLogger(__name__)

PRUNE_EVERY = timedelta(days=1)
KEEP_UNUSED_BLOBS = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything beyond the server that it depends on: a simulation brings its own."""

    clock: Clock
    ids: Ids
    backends: Mapping[str, Backend]
    logs: LogStore
    blobs: BlobFiles
    connector_for: Callable[[Instance], Connector] = connector_for
    make_database: Callable[[Dialect, Clock], Database] = Database
    make_effects: Callable[[Database, Mapping[str, Backend], Links], Effects] = Effects


def outside_of(settings: Settings) -> Outside:
    """The real world, as far as the settings reach."""
    return Outside(
        clock=SystemClock(),
        ids=RandomIds(),
        backends={"local": backends.load("local")(settings.data_dir)},
        logs=LogFiles(settings.data_dir / "logs"),
        blobs=BlobFiles(settings.data_dir / "blobs"),
    )


class Parts:
    """Everything that lives while a server lives."""

    def __init__(self, dialect: Dialect, outside: Outside) -> None:
        clock, ids = outside.clock, outside.ids
        self._clock = clock
        self._signals = Signals()
        self._tasks = TaskGroup()
        self.db = outside.make_database(dialect, clock)
        catalog = Catalog(outside.backends, clock)
        inbox = EngineInbox(self.db, outside.logs, outside.blobs, self._signals)
        self._links = Links(self.db, inbox, clock, outside.connector_for)
        effects = outside.make_effects(self.db, outside.backends, self._links)
        self._outbox = Outbox(self.db, effects, clock)
        self._engine = Engine(self.db, clock, ids, catalog)
        self.context = Context(self.db, ids, catalog, self._links, outside.logs, outside.blobs, self._signals)

    async def start(self, admin_token: str) -> None:
        """Open the database and set everything going. Raises `ConfigurationError` where the database cannot be used."""
        self.db.open()
        self.db.listen(self._spread)
        ids = self.context.ids
        await self.db.write(lambda tx: users.ensure_admin(tx, ids, admin_token))
        await self._outbox.start()
        await self._links.start()
        self._engine.start()
        self._tasks.start("warm-up", self._warm_up())
        self._tasks.start("pruning", self._prune())

    async def _warm_up(self) -> None:
        """What the first request would otherwise wait for: the models' validators, and what this machine has."""
        await asyncio.to_thread(configuration_of, {"type": "task", "commands": ["true"]})
        await self.context.catalog.offers()
        await self.db.write(lambda tx: wakes.add(tx, "scheduler", "placement"))

    async def _prune(self) -> None:
        """Once a day, forget uploaded files that no run has used for a month."""
        while True:
            unused_since = (self._clock.now() - KEEP_UNUSED_BLOBS).timestamp()
            try:
                pruned = await asyncio.to_thread(self.context.blobs.prune, unused_since)
                log.info("Pruned %d blobs that were not used for a month", pruned)
            except OSError as error:
                log.warning("Unused blobs could not be pruned: %s", error)
            await self._clock.sleep(PRUNE_EVERY)

    async def close(self) -> None:
        """Stop everything; jobs go on where they are."""
        await self._tasks.close()
        await self._engine.close()
        await self._outbox.close()
        await self._links.close()
        await self.db.close()

    def _spread(self, notices: Notices) -> None:
        self._signals.notify([*notices.runs, *notices.instances])
        if notices.events:
            self._signals.notify([EVENTS_KEY])
