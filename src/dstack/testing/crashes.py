"""Servers that die: before or after any commit, blocking call, effect or message, as a rule or a person decides."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from dstack.domain.intents import Done, Intent
from dstack.engine.effects import Effects
from dstack.errors import DatabaseUnavailable
from dstack.kit.clock import Clock
from dstack.store.db import Database, Write
from dstack.store.dialect import Dialect
from dstack.store.notices import Notices
from dstack.store.tx import Tx

T = TypeVar("T")

Decide: TypeAlias = Callable[[int, str], bool]
"""Gets the number and the name of a point, and says whether the server dies there."""


def never(number: int, point: str) -> bool:
    """No server dies by itself."""
    return False


def at_random(chance: random.Random, probability: float, at_most: int) -> Decide:
    """Die at any point with this probability, a few times."""
    left = at_most

    def decide(number: int, point: str) -> bool:
        nonlocal left
        dies = left > 0 and chance.random() < probability
        left -= dies
        return dies

    return decide


def at_point(deadly: int) -> Decide:
    """Die once, at the point of this number."""
    return lambda number, point: number == deadly


class CrashSwitch:
    """Whether one server lives. Nobody hears of what a dead one does, so it hangs wherever it is."""

    def __init__(self, decide: Decide = never) -> None:
        self.deaths: list[str] = []
        """The points at which it died."""
        self.points = 0
        """How many points it has passed in all its lives."""
        self._decide = decide
        self._died = asyncio.Event()
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self.is_closed = False
        """Whether this life is over for whoever still tries to write."""

    @property
    def is_dead(self) -> bool:
        """Whether it has died and not begun anew."""
        return self._died.is_set()

    def passes(self, point: str) -> bool:
        """Whether the server lives on beyond this point."""
        if not self.is_dead:
            self.points += 1
            if self._decide(self.points, point):
                self.strike(point)
        return not self.is_dead

    def strike(self, why: str) -> None:
        """Die now."""
        if not self.is_dead:
            self.deaths.append(why)
            self._died.set()

    async def maybe(self, point: str) -> None:
        """Go on beyond this point, once the server does not stand still any more, or never."""
        if self.passes(point):
            await self._goes_on.wait()
        if self.is_dead:
            await asyncio.get_running_loop().create_future()

    def stand_still(self) -> None:
        """Begin nothing, and end nothing, until told to go on: a machine that swaps, or a process that is frozen."""
        self._goes_on.clear()

    def go_on(self) -> None:
        """Go on where it stood, as if nothing had happened."""
        self._goes_on.set()

    async def wait(self) -> None:
        """Until it has died."""
        await self._died.wait()

    def close(self) -> None:
        """End this life without anything having gone wrong."""
        self._died.set()
        self.is_closed = True

    def revive(self) -> None:
        """The next life begins."""
        self._died = asyncio.Event()
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self.is_closed = False

    @contextmanager
    def around_calls(self) -> Iterator[None]:
        """All that is started inside belongs to this server: its blocking calls are points (`points_of_calls`)."""
        token = _SERVER.set(self)
        try:
            yield
        finally:
            _SERVER.reset(token)


_SERVER: ContextVar[CrashSwitch | None] = ContextVar("server", default=None)


def points_of_calls(point: str) -> bool:
    """What a `VirtualLoop` asks before and after each blocking call: whether the server that makes it lives."""
    switch = _SERVER.get()
    return switch is None or switch.passes(point)


class MortalDatabase(Database):
    """The real database of a server that may die before or after any commit."""

    def __init__(self, dialect: Dialect, clock: Clock, switch: CrashSwitch, committed: Callable[[], None]) -> None:
        super().__init__(dialect, clock)
        self._switch = switch
        self._committed = committed

    async def write(self, function: Callable[[Tx], T]) -> T:
        """Write, unless the server dies first."""
        if self._switch.is_closed:
            raise DatabaseUnavailable("This server is no more")
        await self._switch.maybe("before a commit")
        result = await super().write(function)
        await self._switch.maybe("after a commit")
        return result

    async def beside(self, function: Callable[[Tx], T]) -> T:
        """Write beside the turns, unless the server dies first."""
        if self._switch.is_closed:
            raise DatabaseUnavailable("This server is no more")
        await self._switch.maybe("before a write beside")
        result = await super().beside(function)
        await self._switch.maybe("after a write beside")
        return result

    def _commit(self, batch: list[Write], reactor: Callable[[Tx], None]) -> Notices:
        """What one server has committed is looked at before another commits."""
        notices = super()._commit(batch, reactor)
        self._committed()
        return notices


@dataclass(frozen=True, slots=True)
class MortalEffects(Effects):
    """The real effects of a server that may die before or after any of them."""

    switch: CrashSwitch
    began: Callable[[Intent], None]

    async def perform(self, intent: Intent) -> Done:
        """Act, unless the server dies first."""
        self.began(intent)
        await self.switch.maybe(f"before {intent.kind}")
        done = await Effects.perform(self, intent)
        await self.switch.maybe(f"after {intent.kind}")
        return done
