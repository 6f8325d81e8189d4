"""Asks every backend now and then what it has, and ends what nobody claims.

Each backend has a task of its own, so that one that does not answer delays no look at another. All servers of a
database may run it; a backend is asked by the one that owns its shard. Acting twice is harmless.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from dstack.backends.counts import Verb
from dstack.backends.registry import BackendRegistry
from dstack.domain.objects import Instance
from dstack.domain.reconciling import Difference, Finding, compare
from dstack.engine.leases import Leases
from dstack.errors import BackendError, DstackError
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.kit.text import utc_text
from dstack.store import commits, events, objects
from dstack.store.db import Database
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

LOOK_EVERY = timedelta(minutes=5)
LOOK_AGAIN_AFTER = timedelta(seconds=70)
"""When something was found: long enough to be sure of what is missing."""
AFTER_A_BREAK = timedelta(seconds=10)
"""How long after a link has broken it is asked whether the machine is still there."""
LOOK_AGAIN_AT_ONCE = timedelta(seconds=5)
"""When something was found in a backend whose list is exact, and is not over."""
ASK_TIMES = 9
FIRST_ASK_AGAIN = timedelta(milliseconds=200)
LONGEST_ASK_AGAIN = timedelta(seconds=5)
BACKEND_TIMEOUT_S = 120.0


class Reconciler:
    """What was found in each backend when it was last asked."""

    def __init__(
        self,
        db: Database,
        backends: BackendRegistry,
        clock: Clock,
        leases: Leases,
        doubt: Callable[[str], None] = lambda instance_id: None,
    ) -> None:
        """Args: `doubt`: has the link to an instance prove that somebody is there."""
        self._doubt = doubt
        self._db = db
        self._backends = backends
        self._clock = clock
        self._leases = leases
        self._found: dict[str, list[Finding]] = {}
        self._silent: set[str] = set()
        """The backends that did not answer when they were last asked."""
        self._nudged: dict[str, asyncio.Event] = {}
        """For each backend that is watched: whether it is to be asked soon."""
        self._tasks = TaskGroup()

    def start(self) -> None:
        """Look now, and again and again."""
        for name in self._backends:
            self.watch(name)

    def watch(self, name: str) -> None:
        """Look at a backend soon, and again and again for as long as it is configured."""
        if name in self._nudged:
            self._nudged[name].set()
        elif name in self._backends:
            self._nudged[name] = asyncio.Event()
            self._tasks.keep(f"reconciler of {name}", partial(self._run, name))

    async def close(self) -> None:
        """Look no more."""
        await self._tasks.close()

    def nudge(self) -> None:
        """A machine has fallen silent: see soon whether it is still there."""
        for nudged in self._nudged.values():
            nudged.set()

    async def look(self, name: str, timeout_s: float = BACKEND_TIMEOUT_S) -> list[Finding]:
        """Where a backend and the record differ now. Nothing is done about it.

        Raises:
            DstackError, OSError: the backend does not answer.
        """
        exact_at = self._clock.now() if self._backends.abilities(name).lists_exactly and self._leases.is_alone else None
        before, _ = await self._live(name) if exact_at is not None else ({}, set())
        machines = await self._backends.call(name, Verb.LOOK_UP, lambda backend: backend.look_up(), timeout_s=timeout_s)
        live, elsewhere = await self._live(name)
        # What ended while the backend was asked is no machine that nobody claims.
        over = before.keys() - live.keys() | elsewhere
        listed = [one for one in machines if one.key not in over]
        return compare(name, listed, live, self._found.get(name, []), self._clock.now(), exact_at)

    async def _live(self, name: str) -> tuple[dict[str, Instance], set[str]]:
        """Return the instances of a backend, and the ids of all others: two backends may use one account of a cloud."""
        live = await self._db.recall(objects.live_instances)
        its = {one.id: one for one in live if one.offer.backend_id == name}
        return its, {one.id for one in live if one.id not in its}

    async def _run(self, name: str) -> None:
        nudged = self._nudged[name]
        while name in self._backends:
            nudged.clear()
            if self._leases.owns(f"backend {name}"):
                await self._look_and_act(name)
            await self._wait(nudged, self._until_the_next_look(name))
        del self._nudged[name]
        self._found.pop(name, None)
        self._silent.discard(name)

    def _until_the_next_look(self, name: str) -> timedelta:
        found = self._found.get(name, [])
        if any(finding.is_exact for finding in found):
            return LOOK_AGAIN_AT_ONCE
        return LOOK_AGAIN_AFTER if found or name in self._silent else LOOK_EVERY

    async def _look_and_act(self, name: str) -> None:
        self._silent.add(name)
        try:
            self._found[name] = await self.look(name)
            self._silent.discard(name)
            for finding in list(self._found[name]):
                if finding.sure_at <= self._clock.now() and await self._try_to_act(finding) and finding.is_exact:
                    self._found[name].remove(finding)
        except (DstackError, OSError) as error:
            log.warning(
                "The machines of the backend %s could not be compared with the record: %s",
                self._backends.name_of(name),
                error,
            )
        except Exception:  # a driver's bug must not keep the other backends from being looked at
            log.exception(
                "The machines of the backend %s could not be compared with the record", self._backends.name_of(name)
            )

    async def _wait(self, nudged: asyncio.Event, span: timedelta) -> None:
        """Until it is time, or soon after a machine has fallen silent."""
        timer = asyncio.ensure_future(self._clock.sleep(span))
        nudge = asyncio.ensure_future(nudged.wait())
        try:
            await asyncio.wait([timer, nudge], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            nudge.cancel()
        if nudged.is_set():
            await self._clock.sleep(AFTER_A_BREAK)

    async def _try_to_act(self, finding: Finding) -> bool:
        """Act on a finding. An end that is refused holds up no end of another machine."""
        try:
            return await self._act(finding)
        except BackendError as error:
            where = self._backends.name_of(finding.backend)
            log.warning("%s does not end the machine %s: %s", where, finding.machine_id, error)
            return False

    async def _act(self, finding: Finding) -> bool:
        """Do what there is to do; whether nothing is left of the difference."""
        where = self._backends.name_of(finding.backend)
        if finding.difference is Difference.MISSING:
            if not await self._db.write(lambda tx: _note_gone(tx, finding)):
                log.warning("%s does not list the machine %s, and its agent answers", where, finding.machine_id)
                self._doubt(finding.key)
                return False
            return True
        live = await self._db.read(lambda tx: objects.find_instance(tx, finding.key))
        keep = live.machine_id if live is not None and live.finished_at is None else None
        if (finding.difference is Difference.DUPLICATE) != (keep is not None):
            return True  # it was claimed, or given up, meanwhile
        delay = FIRST_ASK_AGAIN
        for _ in range(ASK_TIMES):
            if await self._backends.call(
                finding.backend,
                Verb.TERMINATE,
                lambda backend: backend.terminate(finding.key, keep=keep),
                timeout_s=BACKEND_TIMEOUT_S,
            ):
                log.warning("Ended the %s %s in %s", finding.difference, finding.machine_id, where)
                await self._db.write(lambda tx: _tell(tx, finding, where))
                return True
            await self._clock.sleep(delay)
            delay = min(delay * 2, LONGEST_ASK_AGAIN)
        log.warning("%s does not end the machine %s; it is asked again", where, finding.machine_id)
        return False


def _note_gone(tx: Tx, finding: Finding) -> bool:
    """Whether it is believed: where an agent answers there is a machine, whatever a cloud forgets to list."""
    instance = objects.find_instance(tx, finding.key)
    if instance is None or not instance.takes_jobs or instance.gone_at is not None:
        return True
    if instance.agent_seen_at is not None and instance.unreachable_since is None:
        return False
    commits.record(tx, replace(instance, gone_at=tx.clock.now()))
    return True


def _tell(tx: Tx, finding: Finding, where: str) -> None:
    what = "no instance claimed it" if finding.difference is Difference.ORPHAN else "its instance has another"
    message = f"ended the machine {finding.machine_id} in {where}: {what} since {utc_text(finding.since)}"
    events.add_line(tx, actor="engine", kind=f"machine.{finding.difference}_ended", message=message)
