"""Performs what was decided: the intents of one object in order, those of different objects side by side."""

import asyncio
import logging
from collections import deque
from datetime import timedelta
from functools import partial

from dstack.domain.intents import Done, Failed
from dstack.engine.effects import Effects
from dstack.errors import BackendError, DstackError
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.store import intents
from dstack.store.db import NOT_NOW, Database
from dstack.store.tx import Notices, Open

log = logging.getLogger(__name__)

AT_ONCE_MAX = 64
FIRST_RETRY = timedelta(milliseconds=200)
LONGEST_RETRY = timedelta(seconds=30)


class Outbox:
    """Holds the open intents of every object in memory, as the database has them."""

    def __init__(self, db: Database, effects: Effects, clock: Clock) -> None:
        self._db = db
        self._effects = effects
        self._clock = clock
        self._queues: dict[tuple[str, str], deque[Open]] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)
        self._tasks = TaskGroup()

    async def start(self) -> None:
        """Begin with what a former server left open. Nothing new may be decided before this has returned."""
        left = await self._db.read(intents.list_open)
        self._db.listen(self._hear)
        for open_intent in left:
            self._enqueue(open_intent)

    async def close(self) -> None:
        """Stop; what was not recorded is performed again by the next server."""
        await self._tasks.close()

    def _hear(self, notices: Notices) -> None:
        for open_intent in notices.intents:
            self._enqueue(open_intent)

    def _enqueue(self, open_intent: Open) -> None:
        owner = open_intent.owner
        if owner in self._queues:
            self._queues[owner].append(open_intent)
            return
        self._queues[owner] = deque([open_intent])
        self._tasks.start(f"intents of {owner[0]} {owner[1]}", self._perform_all(owner))

    async def _perform_all(self, owner: tuple[str, str]) -> None:
        queue = self._queues[owner]
        try:
            while queue:
                await self._perform(queue[0])
                queue.popleft()
        finally:
            del self._queues[owner]

    async def _perform(self, open_intent: Open) -> None:
        """Until it is done and that is on record; later intents of the same object wait."""
        delay = FIRST_RETRY
        while True:
            outcome = await self._try(open_intent)
            if outcome is not None and await self._record(open_intent, outcome):
                return
            await self._clock.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY)

    async def _record(self, open_intent: Open, outcome: Done | Failed) -> bool:
        try:
            await self._db.write(partial(intents.record, open_intent=open_intent, outcome=outcome))
        except NOT_NOW:
            log.exception("What came of %s could not be stored; it is performed again", open_intent.intent)
            return False
        return True

    async def _try(self, open_intent: Open) -> Done | Failed | None:
        """What came of it; None where it is to be tried again."""
        try:
            async with self._at_once:
                return await self._effects.perform(open_intent.intent)
        except DstackError as error:
            if error.retryable:
                log.info("%s waits: %s", open_intent.intent, error.message)
                return None
            return Failed(error)
        except Exception as error:
            log.exception("%s failed without a known cause", open_intent.intent)
            return Failed(BackendError(f"{type(error).__name__}: {error}", hint="The server's log has the details"))
