"""A world for the real server: made-up clouds and hosts, users with wishes, and a server that dies when told to."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dstack.backends.base import Backend
from dstack.blobs.files import BlobFiles
from dstack.domain.intents import Done, Intent
from dstack.domain.objects import Instance
from dstack.engine.effects import Effects
from dstack.engine.links import Links
from dstack.errors import HostUnreachable
from dstack.hosts.link import Connector
from dstack.kit.clock import Clock
from dstack.logs.files import LogFiles
from dstack.operations.context import Context
from dstack.server.parts import Outside, Parts
from dstack.store import users
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.sqlite import Sqlite
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.clouds import FakeCloud
from dstack.testing.hosts import Host
from dstack.testing.time import VirtualClock, VirtualLoop

T = TypeVar("T")
CRASH_PROBABILITY = 0.01
TOKEN = "the token of a made-up world"


class SeededIds:
    """Identifiers and chance that are the same each time."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._count = 0

    def new_id(self) -> str:
        """Ids in the order of their making."""
        self._count += 1
        return f"0{self._count:07d}"

    def new_token(self) -> str:
        """A token that is no secret."""
        return f"{self._chance.getrandbits(64):x}"

    def random(self) -> random.Random:
        """The world's chance."""
        return self._chance


@dataclass(slots=True)
class Crashes:
    """When the server dies: with this probability before and after each commit and each effect."""

    chance: random.Random
    probability: float
    most: int
    count: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def maybe(self) -> None:
        """Die here, or hang where the server has died already: nobody hears of what comes after."""
        if not self.happened.is_set() and self.count < self.most and self.chance.random() < self.probability:
            self.count += 1
            self.happened.set()
        if self.happened.is_set():
            await asyncio.get_running_loop().create_future()


class MortalDatabase(Database):
    """The real database of a server that may die before or after any commit."""

    def __init__(self, dialect: Dialect, clock: Clock, crashes: Crashes) -> None:
        super().__init__(dialect, clock)
        self._crashes = crashes

    async def write(self, function: Callable[[Tx], T]) -> T:
        """Write, unless the server dies first."""
        await self._crashes.maybe()
        result = await super().write(function)
        await self._crashes.maybe()
        return result


@dataclass(frozen=True, slots=True)
class MortalEffects(Effects):
    """The real effects of a server that may die before or after any of them."""

    crashes: Crashes

    async def perform(self, intent: Intent) -> Done:
        """Act, unless the server dies first."""
        await self.crashes.maybe()
        done = await Effects.perform(self, intent)
        await self.crashes.maybe()
        return done


@dataclass(frozen=True, slots=True)
class HostConnector:
    """The way to a made-up host."""

    clouds: Mapping[str, FakeCloud]
    instance: Instance

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection, if the host answers."""
        host = self.clouds[self.instance.offer.backend].hosts.get(self.instance.id)
        if host is None:
            raise HostUnreachable(f"There is no machine for `{self.instance.id}`")
        return host.connect().streams()


class World:
    """One server at a time, in a folder of its own, among made-up clouds."""

    def __init__(self, folder: Path, clouds: Mapping[str, FakeCloud], chance: random.Random, crashes: int) -> None:
        self.clouds = clouds
        self.crashes = Crashes(chance, 0.0, crashes)
        self._folder = folder
        self._ids = SeededIds(chance)
        self._parts: Parts | None = None
        self._up = asyncio.Event()

    @property
    def hosts(self) -> list[Host]:
        """Every machine that exists."""
        return [host for cloud in self.clouds.values() for host in cloud.hosts.values()]

    def _outside(self) -> Outside:
        def make_effects(db: Database, backends: Mapping[str, Backend], links: Links) -> Effects:
            return MortalEffects(db, backends, links, self.crashes)

        def connector_for(instance: Instance) -> Connector:
            return HostConnector(self.clouds, instance)

        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "a world needs virtual time"
        return Outside(
            dialect=Sqlite(self._folder / "server.db"),
            clock=VirtualClock(loop),
            ids=self._ids,
            backends=self.clouds,
            logs=LogFiles(self._folder / "logs"),
            blobs=BlobFiles(self._folder / "blobs"),
            connector_for=connector_for,
            make_database=lambda dialect, clock: MortalDatabase(dialect, clock, self.crashes),
            make_effects=make_effects,
        )

    async def keep_server_up(self) -> None:
        """Start a server, and another whenever one has died, until cancelled."""
        while True:
            self.crashes.happened = asyncio.Event()
            self.crashes.probability = 0.0  # a start that never succeeds would prove nothing
            parts = self._parts = Parts(self._outside())
            try:
                await parts.start(TOKEN)
                self.crashes.probability = CRASH_PROBABILITY
                self._up.set()
                await self.crashes.happened.wait()
                self._up.clear()
            finally:
                self.crashes.happened.set()
                await parts.close()

    async def ask(self, operation: Callable[[Context, User], Awaitable[T]]) -> T:
        """What the operation answers, as a user would have it: asked again where the server dies meanwhile."""
        while True:
            await self._up.wait()
            assert self._parts is not None
            died = self.crashes.happened
            context = self._parts.context
            user = User("", "admin", is_admin=True)
            asked = asyncio.ensure_future(self._ask_once(operation, context, user))
            death = asyncio.ensure_future(died.wait())
            await asyncio.wait([asked, death], return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            if asked.done():
                return asked.result()
            asked.cancel()
            with suppress(asyncio.CancelledError):
                await asked

    async def _ask_once(self, operation: Callable[[Context, User], Awaitable[T]], context: Context, user: User) -> T:
        known = await context.db.read(lambda tx: users.find_by_token(tx, TOKEN))
        return await operation(context, known or user)
