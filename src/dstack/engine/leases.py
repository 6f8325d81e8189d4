"""Which instances this server sees to: all of them where it is alone, its part of the shards where there are several.

A lease runs out unless it is renewed. A server that could not renew its lease stops acting before any other begins, and
what it still writes is refused by the number (epoch) of its lease.

A renewal is one row on a connection of its own, and waits for no turn: turns are long where much is to be decided. The
division of the shards needs a turn. Another server takes shards only after it has deleted their owner's row.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

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
    turn_within: timedelta = timedelta(minutes=1)
    """A server that has had no turn for so long renews no lease: it could record nothing."""


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
        self._had_turn_at_s = 0.0
        self._has_data_plane = False
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
    def replica_id(self) -> str:
        """The id of this server among those of its database."""
        return self._id

    def expect_data_plane(self) -> None:
        """Have draining replicas wait, from `start` on, for the data plane that an earlier server has left here."""
        self._has_data_plane = True

    async def set_data_plane(self, *, is_there: bool) -> None:
        """Have draining replicas wait for this server's data plane, or not; return at once if this is on record.

        Raises:
            DatabaseUnavailable: it is not on record.
        """
        former = self._has_data_plane
        if former == is_there:
            return
        self._has_data_plane = is_there  # before the write: a renewal in between writes it too
        try:
            await self._db.write(lambda tx: leases.set_data_plane(tx, self._id, is_there=is_there))
        except BaseException:
            self._has_data_plane = former
            raise

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
        await self._divide()
        if not self._alone:
            self._tasks.keep("renewal of leases", self._renew_again)
            self._tasks.keep("division of shards", self._divide_again)

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

    async def _renew_again(self) -> None:
        while True:
            await self._clock.sleep(self._terms.renewed_every)
            try:
                await self._renew()
            except DatabaseUnavailable as error:  # the next renewal may succeed; without any, other servers take over
                log.error("The leases could not be renewed: %s", error)

    async def _divide_again(self) -> None:
        while True:
            await self._clock.sleep(self._terms.renewed_every)
            try:
                await self._divide()
            except Exception as error:  # the next turn may succeed, and without any, other servers take over
                is_known = isinstance(error, DatabaseUnavailable)
                log.error("The shards could not be divided: %s", error, exc_info=None if is_known else error)
                if self._epochs and self._is_over():
                    log.error("The leases have run out: other servers take over until they can be renewed again")
                    await self._set({})

    def _is_over(self) -> bool:
        return not self._alone and _now_s() >= self._valid_until_s

    async def _renew(self) -> None:
        """Renew a lease that still holds. After its end only a turn shows the shards that are left."""
        asked_at_s = _now_s()
        if self._is_over() or asked_at_s - self._had_turn_at_s > self._terms.turn_within.total_seconds():
            return
        until = self._clock.now() + self._terms.lasts
        if await self._db.beside(lambda tx: leases.beat(tx, self._id, until)) and not self._is_over():
            self._valid_until_s = self._validity_from(asked_at_s)

    def _validity_from(self, asked_at_s: float) -> float:
        return asked_at_s + (self._terms.lasts - self._terms.margin).total_seconds()

    async def _divide(self) -> None:
        asked_at_s, is_over = _now_s(), self._is_over()
        is_renewed, mine, surplus = await self._db.write(partial(self._divide_in, is_over=is_over))
        self._had_turn_at_s = _now_s()
        if self._is_over():
            self._is_taken_up = False  # what came meanwhile was left undone, though nobody else had it
        if is_renewed:
            self._valid_until_s = max(self._valid_until_s, self._validity_from(asked_at_s))
        await self._set(mine)
        given = [shard for shard in surplus if not self._is_busy(shard)]
        if given:
            await self._set({shard: epoch for shard, epoch in mine.items() if shard not in given})
            await self._db.write(lambda tx: leases.give(tx, self._id, given))

    def _divide_in(self, tx: Tx, is_over: bool) -> tuple[bool, dict[int, int], tuple[int, ...]]:
        """Take what is free. Return whether this renewed the lease, the shards of this server, and its surplus."""
        if self._alone:
            leases.forget_all(tx)
            leases.renew(tx, self._id, self._hostname, None, has_data_plane=self._has_data_plane)
            return True, leases.take(tx, self._id, range(SHARDS)), ()
        live = leases.expire(tx, self._id)
        is_renewed = self._id not in live or is_over
        if is_renewed:  # otherwise the row stays free for the next renewal
            until = tx.clock.now() + self._terms.lasts
            leases.renew(tx, self._id, self._hostname, until, has_data_plane=self._has_data_plane)
        division = divide(leases.owners(tx), {**live, self._id: self._hostname}, self._id)
        leases.take(tx, self._id, division.take)
        return is_renewed, leases.epochs_of(tx, self._id), division.give

    async def _set(self, epochs: dict[int, int]) -> None:
        """Note the held leases. One with another number was another server's meanwhile: it is lost, then gained."""
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
