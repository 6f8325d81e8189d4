"""The parts of a server, put together, started and stopped in order."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from dstack import backends
from dstack.backends import Drivers
from dstack.backends.base import Backend
from dstack.backends.registry import BackendRegistry
from dstack.blobs.base import BlobStore
from dstack.blobs.files import BlobFiles
from dstack.domain.objects import Instance
from dstack.engine.backends import BackendFollower
from dstack.engine.catalog import Catalog
from dstack.engine.effects import Effects
from dstack.engine.inbox import EngineInbox
from dstack.engine.leases import TERMS, Leases, LeaseTerms
from dstack.engine.links import Links
from dstack.engine.loop import Engine
from dstack.engine.measurements import Measurements
from dstack.engine.outbox import Outbox
from dstack.engine.reconciler import Reconciler
from dstack.engine.routes import Routes
from dstack.engine.traffic import TrafficLog
from dstack.errors import ConfigurationError, DatabaseUnavailable, StorageUnavailable
from dstack.hosts.inbox import Connector
from dstack.hosts.link import FIRST_RETRY, LONGEST_RETRY, Link
from dstack.hosts.local import connector_for
from dstack.kit.clock import Clock, CorrectedClock, SystemClock
from dstack.kit.ids import Ids, RandomIds
from dstack.kit.pauses import Pauses
from dstack.kit.signals import Signals
from dstack.kit.tasks import TaskGroup
from dstack.kit.vault import KeyFile, Vault
from dstack.logs.base import LogStore
from dstack.logs.bounded import BOUNDS, BoundedLogs, LogBounds
from dstack.logs.files import LogFiles
from dstack.operations.backend_rows import NOTHING, Configured, add_missing
from dstack.operations.context import Context
from dstack.operations.history import EVENTS_KEY
from dstack.operations.people import share_machine
from dstack.server.settings import Settings
from dstack.spec.parse import configuration_of
from dstack.store import users, wakes
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.notices import Notices
from dstack.store.pruning import prune_events, prune_intents, prune_metrics, prune_traffic
from dstack.store.sqlite import Sqlite
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

FILE = "config.yml"
"""The file of backends in the server's folder."""
PRUNE_EVERY = timedelta(days=1)
KEEP_UNUSED_BLOBS = timedelta(days=30)
KEEP_INTENTS = timedelta(days=1)
KEEP_EVENTS = timedelta(days=90)
KEEP_METRICS = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything beyond the server that it depends on: a simulation brings its own."""

    dialect: Dialect
    clock: Clock
    ids: Ids
    backends: Mapping[str, Backend]
    """Those without rows, by name."""
    drivers: Drivers
    """They make backends of rows. A simulation makes its own clouds of them."""
    logs: LogStore
    blobs: BlobStore
    vault: Vault
    is_local_by_default: bool = False
    configured: Configured = NOTHING
    """The projects and backends of the server's file, for what is not there yet."""
    connector_for: Callable[[Instance], Connector] = connector_for
    make_database: Callable[[Dialect, Clock], Database] = Database
    make_effects: Callable[[Database, BackendRegistry, Links, Vault], Effects] = Effects
    log_bounds: LogBounds = BOUNDS
    hostname: str = "localhost"
    lease_terms: LeaseTerms = TERMS


def outside_of(settings: Settings) -> Outside:
    """The real world, as far as the settings reach.

    Raises:
        ConfigurationError: the settings cannot work.
    """
    clock = CorrectedClock(SystemClock())
    ids = RandomIds(clock)
    logs, blobs = _storage_of(settings, clock)
    by_default = settings.local_backend is None and settings.database_url is None
    has_local = by_default or bool(settings.local_backend)
    local = {"local": backends.load("local")(settings.data_dir)} if has_local else {}
    drivers = Drivers(settings.data_dir)
    return Outside(
        dialect=_dialect_of(settings, clock, ids),
        clock=clock,
        ids=ids,
        backends=local,
        drivers=drivers,
        configured=_in_file(settings.data_dir, drivers),
        logs=logs,
        blobs=blobs,
        vault=_vault_of(settings),
        is_local_by_default=by_default,
        log_bounds=LogBounds(settings.log_bytes_max),
        hostname=socket.gethostname(),
    )


def _dialect_of(settings: Settings, clock: CorrectedClock, ids: Ids) -> Dialect:
    if settings.database_url is None:
        return Sqlite(settings.data_dir / "server.db")
    try:
        from dstack.store.postgres import Postgres  # an extra: most servers are alone
    except ImportError as error:
        raise ConfigurationError(
            f"PostgreSQL cannot be used: {error}", hint="Run `pip install '.[postgres]'` in the checkout of dstack"
        ) from error
    return Postgres(settings.database_url, clock, server=ids.new_token())


def check_file(data_dir: Path) -> None:
    """Raise `ConfigurationError` if a server with this folder would refuse to start because of its `config.yml`."""
    _in_file(data_dir, Drivers(data_dir))


def _in_file(data_dir: Path, drivers: Drivers) -> Configured:
    if not (data_dir / FILE).exists():
        return NOTHING
    from dstack.server.config_file import read  # slow to import, and most servers have no such file

    return read(data_dir / FILE, drivers)


def _vault_of(settings: Settings) -> Vault:
    if settings.encryption_keys or settings.database_url is not None:
        return Vault(settings.encryption_keys)
    return KeyFile(settings.data_dir / "encryption.key")


def _storage_of(settings: Settings, clock: Clock) -> tuple[LogStore, BlobStore]:
    if settings.s3 is None:
        return LogFiles(settings.data_dir / "logs"), BlobFiles(settings.data_dir / "blobs")
    try:
        from dstack.blobs.bucket import BlobBucket  # an extra: most servers use a folder
        from dstack.bucket import Bucket
        from dstack.logs.bucket import LogBucket
    except ImportError as error:
        raise ConfigurationError(
            f"S3 cannot be used: {error}", hint="Run `pip install '.[s3]'` in the checkout of dstack"
        ) from error
    bucket = Bucket(settings.s3.bucket, settings.s3.prefix, settings.s3.endpoint_url)
    bucket.check()
    return LogBucket(bucket), BlobBucket(bucket, clock)


class Parts:
    """Everything that lives while a server lives."""

    def __init__(self, outside: Outside) -> None:
        clock, ids = outside.clock, outside.ids
        self._clock = clock
        self._signals = Signals()
        self._tasks = TaskGroup()
        self.db = outside.make_database(outside.dialect, clock)
        alone = not outside.dialect.is_shared
        self.leases = Leases(self.db, clock, ids.new_id(), outside.hostname, alone=alone, terms=outside.lease_terms)
        self._backends = BackendRegistry(outside.backends)
        self._follower = BackendFollower(self.db, self._backends, outside.drivers, outside.vault, self._signals, clock)
        self._configured = outside.configured
        self._catalog = catalog = Catalog(self._backends, clock, ids)
        self._reconciler = Reconciler(self.db, self._backends, clock, self.leases, self._doubt)
        self._measurements = Measurements(self.db, clock)
        inbox = EngineInbox(
            self.db,
            self.leases,
            BoundedLogs(outside.logs, outside.log_bounds),
            outside.blobs,
            self._signals,
            self._measurements,
            when_silent=self._reconciler.nudge,
        )

        def make_link(instance: Instance, epoch: int) -> Link:
            pauses = Pauses(FIRST_RETRY, LONGEST_RETRY, ids.random().random)
            return Link(instance.id, outside.connector_for(instance), inbox, clock, epoch, pauses)

        self._links = Links(self.db, clock, self.leases, make_link)
        effects = outside.make_effects(self.db, self._backends, self._links, outside.vault)
        self._outbox = Outbox(self.db, effects, clock, self.leases)
        self._engine = Engine(self.db, clock, ids, catalog, self.leases)
        self.routes = Routes(self.db, clock)
        self.traffic = TrafficLog(self.db, clock)
        self.context = Context(
            self.db,
            ids,
            catalog,
            self._reconciler,
            self._engine.why_waiting,
            self._backends,
            outside.drivers,
            outside.logs,
            outside.blobs,
            self._signals,
            outside.vault,
            outside.is_local_by_default,
        )

    async def start(self, admin_token: str) -> None:
        """Open the database and set everything going. Raises `ConfigurationError` where the database cannot be used."""
        self.db.open()
        self.db.listen(self._spread)
        ids = self.context.ids
        await self.db.write(lambda tx: users.ensure_admin(tx, ids, admin_token))
        if self._configured != NOTHING:
            await add_missing(self.context, self._configured)
        await self._follower.load()
        await share_machine(self.context, await self.db.read(users.count_users))
        self._catalog.start()
        self._outbox.start()
        self._links.start()
        await self.leases.start()
        self._engine.start()
        self._reconciler.start()
        self.routes.start()
        self._tasks.start("warm-up", self._warm_up())
        self._follower.start()
        self._backends.listen(self._reconciler.watch)
        self._tasks.keep("pruning", self._prune)

    async def _warm_up(self) -> None:
        """Prepare the models' validators and the resources of this machine, so that the first request need not wait."""
        await asyncio.to_thread(configuration_of, {"type": "task", "commands": ["true"]})
        await self._catalog.market()
        await self.db.write(lambda tx: wakes.add(tx, "scheduler", "placement"))

    async def _prune(self) -> None:
        """Delete old uploads, intents, metrics and history once a day."""
        while True:
            now = self._clock.now()
            try:
                blobs = await asyncio.to_thread(self.context.blobs.prune, (now - KEEP_UNUSED_BLOBS).timestamp())
                intents = await self._prune_rows(prune_intents, now - KEEP_INTENTS)
                events = await self._prune_rows(prune_events, now - KEEP_EVENTS)
                metrics = await self._prune_rows(prune_metrics, now - KEEP_METRICS)
                metrics += await self._prune_rows(prune_traffic, now - KEEP_METRICS)
                log.info(
                    "Deleted %d unused blobs, %d intents, %d events and %d rows of metrics",
                    *(blobs, intents, events, metrics),
                )
            except (OSError, StorageUnavailable, DatabaseUnavailable) as error:
                log.warning("Unused data could not be deleted: %s", error)
            await self._clock.sleep(PRUNE_EVERY)

    async def _prune_rows(self, prune: Callable[[Tx, datetime], int], before: datetime) -> int:
        whole = 0
        while rows := await self.db.write(lambda tx: prune(tx, before)):
            whole += rows
        return whole

    async def close(self) -> None:
        """Stop everything; jobs go on where they are, and other servers take over at once."""
        await self._tasks.close()
        await self.routes.close()
        await self._catalog.close()
        await self._follower.close()
        await self._reconciler.close()
        await self._engine.close()
        await self._outbox.close()
        await self._links.close()
        await self._measurements.close()
        await self.traffic.close()
        await self.leases.close()
        await self.db.close()
        await self._backends.close()

    def _doubt(self, instance_id: str) -> None:
        self._links.doubt(instance_id)

    def _spread(self, notices: Notices) -> None:
        if notices.everything:
            self._signals.notify_all()
            return
        self._signals.notify([*notices.changed, *notices.instances])
        if notices.events:
            self._signals.notify([EVENTS_KEY])
