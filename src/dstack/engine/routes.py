"""The routes of all services, as they follow from the record. Each server has them for its data plane."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from dstack.domain.objects import Run
from dstack.domain.routes import service_of
from dstack.domain.targets import target_of
from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.protocol.proxy import Service
from dstack.store import objects, users
from dstack.store.db import Database
from dstack.store.notices import Notices
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

AFTER_TROUBLE = timedelta(seconds=5)
TOKENS_EVERY = timedelta(seconds=1)
"""Tokens are read again at most so often: a revoked one is refused within two seconds. A single change is read at once,
so that a new token can be used at once."""

EXPIRY_AFTER_S = 10
"""After so many seconds they are read again without a change: some may have expired."""


class Book(NamedTuple):
    """All routes in one version. The services and tokens of a version never change."""

    version: int
    """0 until the record has been read."""
    services: Mapping[str, Service]
    tokens: Mapping[str, tuple[str, ...]]


class Routes:
    """The routes of all services, kept as the record is."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._tasks = TaskGroup()
        self.book = Book(0, {}, {})
        self._changed: set[str] = set()
        self._is_stale = False
        """Whether known services may have changed without a notice."""
        self._is_reading = False
        """Whether services are read just now, so that changes of unknown ones count too."""
        self._is_behind = True
        """Whether services may have come that are not known yet."""
        self._woken = asyncio.Event()
        self._callers_changed = asyncio.Event()
        self._next = asyncio.Event()

    def start(self) -> None:
        """Follow the record from now on."""
        self._db.listen(self._hear)
        self._tasks.keep("routes", self._follow)
        self._tasks.keep("callers", self._follow_callers)

    async def close(self) -> None:
        """Stop following."""
        await self._tasks.close()

    async def wait(self, version: int) -> Book:
        """Return the routes once they are of another version."""
        while self.book.version == version:
            await self._next.wait()
        return self.book

    def _hear(self, notices: Notices) -> None:
        self._is_behind |= notices.everything or objects.SERVICES in notices.changed
        self._is_stale |= notices.everything
        if notices.everything or notices.events:
            self._callers_changed.set()
        self._changed |= notices.changed
        if self._is_behind or self._changed & self.book.services.keys():
            self._woken.set()
        elif not self._is_reading:
            self._changed.clear()

    async def _follow(self) -> None:
        self._is_behind = self._is_stale = True  # a predecessor that failed may have read nothing of what it took
        self._woken.set()
        while True:
            await self._woken.wait()
            self._woken.clear()
            changed, self._changed = self._changed, set()
            is_behind, self._is_behind = self._is_behind, False
            is_stale, self._is_stale = self._is_stale, False
            known: Mapping[str, Service] = {} if is_stale else self.book.services
            self._is_reading = True
            try:
                found = await self._db.read(partial(_read, changed=changed, known=known, all=is_behind))
                is_new = is_behind and found and not self.book.tokens
                tokens = await self._db.read(users.callers) if is_new else self.book.tokens
            except DatabaseUnavailable:
                log.exception("The routes could not be read; retried in %s", AFTER_TROUBLE)
                self._changed |= changed
                self._is_behind |= is_behind
                self._is_stale |= is_stale
                await self._clock.sleep(AFTER_TROUBLE)
                self._woken.set()
                continue
            self._publish(found, tokens)
            self._is_reading = False
            if self._changed & self.book.services.keys():
                self._woken.set()

    async def _follow_callers(self) -> None:
        while True:
            book = self.book
            while not book.services:
                book = await self.wait(book.version)
            with suppress(TimeoutError):
                async with asyncio.timeout(EXPIRY_AFTER_S):
                    await self._callers_changed.wait()
            self._callers_changed.clear()
            try:
                tokens = await self._db.read(users.callers)
                self._publish(self.book.services, tokens)
            except DatabaseUnavailable as error:
                self._callers_changed.set()
                log.warning("The tokens of callers could not be read: %s", error)
            await self._clock.sleep(TOKENS_EVERY)

    def _publish(self, services: Mapping[str, Service], tokens: Mapping[str, tuple[str, ...]]) -> None:
        book = self.book
        if book.version and services == book.services and tokens == book.tokens:
            return
        self.book = Book(book.version + 1, services, tokens)
        self._next.set()
        self._next = asyncio.Event()


def _read(tx: Tx, changed: Collection[str], known: Mapping[str, Service], *, all: bool) -> dict[str, Service]:
    """Return the services as they are now, with those read again that have changed."""
    ids = objects.service_ids(tx) if all else [*known]
    stale = [id for id in ids if id in changed or id not in known]
    runs = objects.find_all(tx, Run, stale)
    jobs = objects.jobs_of_runs(tx, list(runs))
    instance_ids = {job.instance_id or "" for some in jobs.values() for job in some}
    way = partial(target_of, instances=objects.instances_by_id(tx, instance_ids))
    names = users.names_of(tx, {run.project_id for run in runs.values()})
    services = {id: known[id] for id in ids if id in known}
    for id in stale:
        run = runs.get(id)
        if run is None or run.finished_at is not None or run.project_id not in names:
            services.pop(id, None)
        else:
            services[id] = service_of(run, names[run.project_id], jobs.get(id, ()), way)
    return services
