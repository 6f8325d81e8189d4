"""Servers of a made-up world: the real parts, killed, frozen or updated as the faults say, and always started again."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from dstack.engine.leases import LeaseTerms
from dstack.errors import DatabaseUnavailable
from dstack.operations.context import Context
from dstack.server.parts import Parts
from dstack.store import users
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.crashes import CrashSwitch
from dstack.testing.faults import ServerPauses, ServerUpdates
from dstack.testing.nature import Nature

T = TypeVar("T")
TOKEN = "the token of a made-up world"
RESTART_AFTER_S = 1.0
ASK_AGAIN_AFTER_S = 1.0
AWAY_AT_MOST_S = 300.0
"""How long a server is away where others take over."""

TERMS = LeaseTerms(timedelta(seconds=120), timedelta(seconds=20), timedelta(seconds=40))
"""Twenty times as long as in the real world, for fewer renewals in a virtual day."""


class Server:
    """One server of a world: the real parts, started again whenever they have died."""

    def __init__(
        self, name: str, switch: CrashSwitch, make_parts: Callable[[CrashSwitch], Parts], nature: Nature, *, alone: bool
    ) -> None:
        self.name = name
        self.switch = switch
        self.parts: Parts | None = None
        self._make_parts = make_parts
        self._nature = nature
        self._alone = alone
        self._up = asyncio.Event()
        self._is_to_end = asyncio.Event()
        self._user = User("", "nobody", is_admin=False)

    async def is_up(self) -> Parts:
        """Wait until it is up; return its parts."""
        await self._up.wait()
        assert self.parts is not None
        return self.parts

    @property
    def is_serving(self) -> bool:
        """Whether it is up."""
        return self._up.is_set() and not self.switch.is_dead

    async def keep_up(self) -> None:
        """Start, and start again after each end, until cancelled."""
        while True:
            self.switch.revive()
            self._is_to_end.clear()
            with self.switch.around_calls():
                parts = self._make_parts(self.switch)
                starting = asyncio.create_task(parts.start(TOKEN), name=f"start of {self.name}")
            try:
                await self._live(parts, starting)
            finally:
                self._up.clear()
                self.switch.close()
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                await parts.close()
            await asyncio.sleep(RESTART_AFTER_S if self._alone else self._nature.within(AWAY_AT_MOST_S))

    async def _live(self, parts: Parts, starting: "asyncio.Task[None]") -> None:
        await self._unless_it_dies(starting)
        if starting.done() and not self.switch.is_dead:
            try:
                starting.result()
            except DatabaseUnavailable as error:
                self._tell(f"cannot start: {error.message}")
                return
            self.parts = parts
            self._user = await parts.context.db.read(_find_admin)
            self._up.set()
            self._tell("is up")
            await self._unless_it_dies(asyncio.create_task(self._is_to_end.wait()))
        if not self.switch.is_dead:
            self._up.clear()
            self._tell("ends in good order")
            with self.switch.around_calls():
                closing = asyncio.create_task(parts.close(), name=f"end of {self.name}")
            await self._unless_it_dies(closing)
        if self.switch.is_dead:
            self._tell(f"dies {self.switch.deaths[-1]}")

    async def _unless_it_dies(self, task: "asyncio.Task[Any]") -> None:
        death = asyncio.create_task(self.switch.wait(), name=f"death of {self.name}")
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def ask(self, operation: Callable[[Context, User], Coroutine[Any, Any, T]]) -> T:
        """What the operation answers, as a patient user has it: asked again where the server dies or is busy."""
        while True:
            await self._up.wait()
            assert self.parts is not None
            with self.switch.around_calls():
                asked = asyncio.ensure_future(operation(self.parts.context, self._user))
            death = asyncio.ensure_future(self.switch.wait())
            try:
                await asyncio.wait([asked, death], return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    return asked.result()
            except DatabaseUnavailable:
                await asyncio.sleep(ASK_AGAIN_AFTER_S)
            finally:
                death.cancel()
                asked.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await asked
            await asyncio.sleep(0)

    async def suffer(self) -> None:
        """Stand still and be updated as the faults say, until cancelled."""
        await asyncio.gather(self._stand_still(), self._be_updated())

    async def _stand_still(self) -> None:
        pauses = self._nature.find(ServerPauses)
        while pauses is not None:
            await self._pass(pauses.every_s)
            self._tell("stands still")
            self.switch.stand_still()
            await self._pass(pauses.lasts_s)
            self._tell("goes on")
            self.switch.go_on()

    async def _be_updated(self) -> None:
        updates = self._nature.find(ServerUpdates)
        while updates is not None:
            await self._pass(updates.every_s)
            self._is_to_end.set()

    async def _pass(self, mean_s: float) -> None:
        await asyncio.sleep(self._nature.chance.expovariate(1 / mean_s))

    def _tell(self, what: str) -> None:
        self._nature.observer.told(self.name, what)


def _find_admin(tx: Tx) -> User:
    known = users.find_by_token(tx, TOKEN)
    assert known is not None, "a server that has started knows its admin"
    return known
