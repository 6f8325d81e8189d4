"""Performs what was decided: the intents of one object in order, those of different objects side by side."""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from dstack.domain.intents import HOSTS, Done, Failed, Intent, LaunchMachine
from dstack.domain.sharding import shard_of
from dstack.engine.effects import Effects
from dstack.engine.leases import Leases
from dstack.errors import BackendError, DatabaseUnavailable, DstackError, LeaseLost, Unanswered
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.protocol.statuses import InstanceStatus
from dstack.store import commits, intents, objects
from dstack.store.db import Database
from dstack.store.notices import Notices, Open
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

AT_ONCE = 64
"""The calls of one lane at once: calls of a backend take seconds or minutes, and delay no other backend."""
HOSTS_AT_ONCE = 1000
"""The calls of agents at once."""
FIRST_RETRY = timedelta(milliseconds=200)
LONGEST_RETRY = timedelta(seconds=30)
UNKNOWN_ERRORS_MAX = 6
"""So often is an intent tried whose error is of no known kind; with growing pauses, that takes six seconds.

Such an error may come from what another task was changing just then. A bug fails each time.
"""


class Outbox:
    """Holds the open intents of every object that this server sees to, as the database has them."""

    def __init__(self, db: Database, effects: Effects, clock: Clock, leases: Leases) -> None:
        self._db = db
        self._effects = effects
        self._clock = clock
        self._leases = leases
        self._queues: dict[tuple[str, str], deque[Open]] = {}
        self._performing: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._lanes = {HOSTS: asyncio.Semaphore(HOSTS_AT_ONCE)}
        self._asked_elsewhere = asyncio.Event()
        self._tasks = TaskGroup()
        leases.when_gained(self._load)
        leases.when_lost(self._let_go)
        leases.keep_while_busy(self._is_busy)

    def start(self) -> None:
        """Begin to hear what is decided."""
        self._db.listen(self._hear)
        self._tasks.keep("decisions of other servers", self._load_what_others_decide)

    async def close(self) -> None:
        """Stop; what was not recorded is performed again by the next server."""
        await self._tasks.close()

    def _hear(self, notices: Notices) -> None:
        for open_intent in notices.intents:
            self._enqueue(open_intent)
        if notices.everything or any(self._leases.owns(id) for id in notices.asked):
            self._asked_elsewhere.set()

    async def _load_what_others_decide(self) -> None:
        while True:
            await self._asked_elsewhere.wait()
            self._asked_elsewhere.clear()
            try:
                await self._load()
            except DatabaseUnavailable:
                log.exception("The open intents could not be read; retried in %s", LONGEST_RETRY)
                self._asked_elsewhere.set()
                await self._clock.sleep(LONGEST_RETRY)
            except Exception:
                self._asked_elsewhere.set()
                raise

    async def _load(self) -> None:
        """Take up what is open. Read in turn with all that is written, lest what was done meanwhile be done again."""
        for open_intent in await self._db.write(intents.list_open):
            self._enqueue(open_intent)

    async def _let_go(self) -> None:
        """Stop what is for another server to do by now."""
        lost = [task for owner, task in self._performing.items() if not self._is_ours(self._queues[owner])]
        for task in lost:
            task.cancel()
        await asyncio.gather(*lost, return_exceptions=True)

    def _is_ours(self, queue: deque[Open]) -> bool:
        return self._leases.owns(queue[0].intent.shard_key)

    def _is_busy(self, shard: int) -> bool:
        return any(shard_of(queue[0].intent.shard_key) == shard for queue in self._queues.values())

    def _enqueue(self, open_intent: Open) -> None:
        owner, queue = open_intent.owner, self._queues.get(open_intent.owner)
        if queue is not None:
            if open_intent.position > queue[-1].position:
                queue.append(open_intent)
        elif self._leases.owns(open_intent.intent.shard_key):
            self._queues[owner] = deque([open_intent])
            task = self._tasks.start(f"intents of {owner[0]} {owner[1]}", self._perform_all(owner))
            self._performing[owner] = task

    async def _perform_all(self, owner: tuple[str, str]) -> None:
        queue = self._queues[owner]
        try:
            while queue and self._is_ours(queue):
                await self._perform(queue[0])
                queue.popleft()
        finally:
            del self._queues[owner], self._performing[owner]

    async def _perform(self, open_intent: Open) -> None:
        """Until it is done and that is on record; later intents of the same object wait.

        The bound of its time counts here, in this server: while none runs, nothing is tried.
        """
        delay, unknown_errors = FIRST_RETRY, 0
        within = open_intent.intent.within
        until_s = None if within is None else asyncio.get_running_loop().time() + within.total_seconds()
        while self._leases.owns(open_intent.intent.shard_key):
            try:
                outcome = await self._try(open_intent, until_s)
            except Exception as error:
                log.exception("%s failed without a known cause", open_intent.intent)
                unknown_errors += 1
                outcome = _failed(error) if unknown_errors >= UNKNOWN_ERRORS_MAX else None
            if outcome is not None and await self._record(open_intent, outcome):
                return
            await self._clock.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY)

    async def _record(self, open_intent: Open, outcome: Done | Failed) -> bool:
        def write(tx: Tx) -> None:
            self._leases.check(tx, open_intent.intent.shard_key)
            intents.record(tx, open_intent, outcome)

        try:
            await self._db.write(write)
        except LeaseLost as error:
            log.warning("The outcome of %s is not recorded: %s", open_intent.intent, error)
        except DatabaseUnavailable:
            log.exception("The outcome of %s could not be stored; it is performed again", open_intent.intent)
            return False
        return True

    async def _tell_why(self, intent: Intent, why: str) -> None:
        """Have people see on the instance why its machine is not there yet."""

        def write(tx: Tx) -> None:
            self._leases.check(tx, intent.shard_key)
            instance = objects.find_instance(tx, intent.object_id)
            if instance is not None and instance.status is InstanceStatus.PENDING and instance.detail != why:
                commits.record(tx, replace(instance, detail=why))

        if isinstance(intent, LaunchMachine):
            with suppress(LeaseLost, DatabaseUnavailable):
                await self._db.write(write)

    async def _try(self, open_intent: Open, until_s: float | None) -> Done | Failed | None:
        """Return the outcome; None where it is to be tried again. Raises errors of unknown kinds.

        Args:
            until_s: the end of its bound, by the loop's time. The wait for its lane counts.
        """
        intent = open_intent.intent
        bound = asyncio.timeout_at(until_s)
        try:
            async with bound, self._lanes.setdefault(intent.lane, asyncio.Semaphore(AT_ONCE)):
                return await self._effects.perform(intent) if self._leases.owns(intent.shard_key) else None
        except TimeoutError:
            if not bound.expired():
                raise
            return Failed(Unanswered(f"`{intent.kind}` was not answered within {intent.within}"))
        except DstackError as error:
            if error.retryable:
                log.info("%s waits: %s", intent, error.message)
                await self._tell_why(intent, error.message)
                return None
            return Failed(error)


def _failed(error: Exception) -> Failed:
    return Failed(BackendError(f"{type(error).__name__}: {error}", hint="The server's log has the details"))
