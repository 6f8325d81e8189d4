"""Which instances this server sees to: all of them where it is alone, its part of the shards where there are several.

A lease runs out unless it is renewed. Whoever could not renew his stops acting before anybody else begins, and what he
still writes is refused by the number (epoch) of his lease.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from dstack.domain.sharding import SHARDS, divide, shard_of
from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import Clock
from dstack.kit.tasks import TaskGroup
from dstack.store import leases
from dstack.store.db import Database
from dstack.store.tx import Tx

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How long a lease lasts; all servers of a database have the same terms."""

    lasts: timedelta = timedelta(seconds=6)
    renewed_every: timedelta = timedelta(seconds=1)
    margin: timedelta = timedelta(seconds=2)
    """How long before its end a lease is not acted on any more."""


TERMS = LeaseTerms()


class Leases:
    """The shards of one server, and who has to hear when they change."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        replica_id: str,
        hostname: str,
        *,
        alone: bool,
        terms: LeaseTerms = TERMS,
    ) -> None:
        self._db = db
        self._clock = clock
        self._id = replica_id
        self._hostname = hostname
        self._alone = alone
        self._terms = terms
        self._epochs: dict[int, int] = {}
        self._valid_until_s = 0.0
        self._is_taken_up = True
        """Whether the listeners have heard of all that is ours."""
        self._gained: list[Callable[[], Awaitable[None]]] = []
        self._lost: list[Callable[[], Awaitable[None]]] = []
        self._is_busy: Callable[[int], bool] = lambda shard: False
        self._tasks = TaskGroup()

    def owns(self, key: str) -> bool:
        """Whether this server owns the shard of an instance, or of another object by its id."""
        return shard_of(key) in self._epochs and (self._alone or _now_s() < self._valid_until_s)

    @property
    def is_alone(self) -> bool:
        """Whether no other server works on this database."""
        return self._alone

    def epoch_of(self, key: str) -> int:
        """The number of the lease on a shard: an agent obeys the highest."""
        return self._epochs.get(shard_of(key), 0)

    def check(self, tx: Tx, key: str) -> None:
        """Raise `LeaseLost` where another server has taken over, whatever this one believes."""
        leases.check(tx, self._id, key, self.epoch_of(key))

    def when_gained(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Have `listener` called whenever this server sees to more instances than before."""
        self._gained.append(listener)

    def when_lost(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Have `listener` called whenever it sees to fewer; others take them once it has returned."""
        self._lost.append(listener)

    def keep_while_busy(self, is_busy: Callable[[int], bool]) -> None:
        """Give no shard away of which `is_busy` says that something is under way."""
        self._is_busy = is_busy

    async def start(self) -> None:
        """Take what is free, and keep it."""
        await self._renew()
        if not self._alone:
            self._tasks.start("leases", self._run())

    async def close(self) -> None:
        """Leave everything to the others at once. What this server held must be let go of before."""
        await self._tasks.close()
        self._epochs.clear()
        if self._alone:
            return
        try:
            await self._db.write(lambda tx: leases.leave(tx, self._id))
        except DatabaseUnavailable:
            log.warning("The leases could not be given back; they run out by themselves")

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._terms.renewed_every)
            try:
                await self._renew()
            except Exception as error:  # the next renewal may succeed, and without any, other servers take over
                is_known = isinstance(error, DatabaseUnavailable)
                log.error("The leases could not be renewed: %s", error, exc_info=None if is_known else error)
                if self._epochs and _now_s() >= self._valid_until_s:
                    log.error("The leases have run out: other servers take over until they can be renewed again")
                    await self._set({})

    async def _renew(self) -> None:
        asked_at_s = _now_s()
        mine, surplus = await self._db.write(self._renew_in)
        if not self._alone and _now_s() >= self._valid_until_s:
            self._is_taken_up = False  # what came meanwhile was left undone, though nobody else had it
        self._valid_until_s = asked_at_s + (self._terms.lasts - self._terms.margin).total_seconds()
        await self._set(mine)
        given = [shard for shard in surplus if not self._is_busy(shard)]
        if given:
            await self._set({shard: epoch for shard, epoch in mine.items() if shard not in given})
            await self._db.write(lambda tx: leases.give(tx, self._id, given))

    def _renew_in(self, tx: Tx) -> tuple[dict[int, int], tuple[int, ...]]:
        """Live on, and take what is free. Returns the shards that are this server's, and those it should give away."""
        if self._alone:
            leases.forget_all(tx)
            leases.renew(tx, self._id, self._hostname, None)
            return leases.take(tx, self._id, range(SHARDS)), ()
        leases.renew(tx, self._id, self._hostname, tx.clock.now() + self._terms.lasts)
        division = divide(leases.owners(tx), leases.live_replicas(tx), self._id)
        leases.take(tx, self._id, division.take)
        return leases.epochs_of(tx, self._id), division.give

    async def _set(self, epochs: dict[int, int]) -> None:
        """What is held under another number than before was another server's meanwhile: it is lost, then gained."""
        before = self._epochs
        kept = {shard: epoch for shard, epoch in epochs.items() if before.get(shard) == epoch}
        self._epochs = kept
        if kept != before:
            log.info("This server owns %d of %d shards", len(kept), SHARDS)
            for lost in self._lost:
                await lost()
        self._epochs = epochs
        if kept != epochs:
            log.info("This server owns %d of %d shards", len(epochs), SHARDS)
            self._is_taken_up = False
        if not self._is_taken_up:
            for gained in self._gained:
                await gained()
            self._is_taken_up = True


def _now_s() -> float:
    """Time that never jumps: whether a lease still holds must not depend on a clock that somebody sets."""
    return asyncio.get_running_loop().time()
