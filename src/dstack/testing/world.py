"""A world for the real server: made-up clouds and hosts, and servers that die when told to and start again."""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dstack.backends.base import Backend
from dstack.blobs.files import BlobFiles
from dstack.domain.objects import Instance
from dstack.domain.offers import Offer
from dstack.engine.effects import Effects
from dstack.engine.links import Links
from dstack.errors import DatabaseUnavailable, HostUnreachable
from dstack.hosts.link import Connector
from dstack.kit.clock import Clock
from dstack.logs.files import LogFiles
from dstack.operations.context import Context
from dstack.server.parts import Outside, Parts
from dstack.store import users
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.clouds import Clouds, FakeCloud
from dstack.testing.crashes import CrashSwitch, Decide, MortalDatabase, MortalEffects, at_random, never
from dstack.testing.databases import BusySqlite, copy_database
from dstack.testing.faults import DatabaseBusy, Faults, ServerCrashes
from dstack.testing.ledger import Ledger
from dstack.testing.nature import Nature, Observer
from dstack.testing.time import VirtualClock, VirtualLoop
from dstack.testing.troubles import troubles_of
from dstack.testing.watch import Watch

T = TypeVar("T")
TOKEN = "the token of a made-up world"
RESTART_AFTER_S = 1.0
ASK_AGAIN_AFTER_S = 1.0


class SeededIds:
    """Identifiers and chance that are the same each time."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._count = 0

    def new_id(self) -> str:
        """Ids in the order of their making."""
        self._count += 1
        return f"{self._count:06d}"

    def new_token(self) -> str:
        """A token that is no secret."""
        return f"{self._chance.getrandbits(64):x}"

    def random(self) -> random.Random:
        """The world's chance."""
        return self._chance


@dataclass(frozen=True, slots=True)
class HostConnector:
    """The way of one server to a made-up host."""

    clouds: Clouds
    instance: Instance
    switch: CrashSwitch

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection, if the host answers."""
        await self.switch.maybe("before connecting")
        host = self.clouds[self.instance.offer.backend].hosts.get(self.instance.id)
        if host is None:
            raise HostUnreachable(f"There is no machine for `{self.instance.id}`")
        pipe = host.connect()
        pipe.passes = self.switch.passes
        return pipe.streams()


class Server:
    """One server of a world: the real parts, started again whenever they have died."""

    def __init__(self, name: str, switch: CrashSwitch, make_parts: Callable[[CrashSwitch], Parts], observer: Observer):
        self.name = name
        self.switch = switch
        self.parts: Parts | None = None
        self._make_parts = make_parts
        self._observer = observer
        self._up = asyncio.Event()
        self._user = User("", "nobody", is_admin=False)

    async def keep_up(self) -> None:
        """Start, and start again after each death, until cancelled."""
        while True:
            self.switch.revive()
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
            await asyncio.sleep(RESTART_AFTER_S)

    async def _live(self, parts: Parts, starting: "asyncio.Task[None]") -> None:
        death = asyncio.create_task(self.switch.wait(), name=f"death of {self.name}")
        try:
            await asyncio.wait([starting, death], return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and not self.switch.is_dead:
                try:
                    starting.result()
                except DatabaseUnavailable as error:
                    self._observer.told(self.name, f"cannot start: {error.message}")
                    return
                self.parts = parts
                self._user = await parts.context.db.read(_find_admin)
                self._up.set()
                self._observer.told(self.name, "is up")
                await death
            self._observer.told(self.name, f"dies {self.switch.deaths[-1]}")
        finally:
            death.cancel()

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


def _find_admin(tx: Tx) -> User:
    known = users.find_by_token(tx, TOKEN)
    assert known is not None, "a server that has started knows its admin"
    return known


class World:
    """Servers in a folder of their own, among made-up clouds."""

    def __init__(self, folder: Path, clouds: Clouds, nature: Nature, watch: Watch, dies: Decide) -> None:
        self.clouds = clouds
        self.nature = nature
        self.watch = watch
        self.logs = LogFiles(folder / "logs")
        self._folder = folder
        self._ids = SeededIds(nature.chance)
        self.servers = [Server("server", CrashSwitch(dies), self._make_parts, watch)]

    @property
    def server(self) -> Server:
        """The one that users talk to."""
        return self.servers[0]

    def start(self) -> "list[asyncio.Task[None]]":
        """Set everything going; cancel what is returned to end it."""
        tasks = [asyncio.create_task(server.keep_up(), name=server.name) for server in self.servers]
        tasks += [asyncio.create_task(trouble) for trouble in troubles_of(self.nature, self.clouds)]
        return [*tasks, asyncio.create_task(self.watch.scan(), name="scan")]

    def close(self) -> None:
        """Let go of what it holds; nothing may go on any more."""
        self.watch.ledger.close()

    def _make_parts(self, switch: CrashSwitch) -> Parts:
        return Parts(self._outside(switch))

    def _outside(self, switch: CrashSwitch) -> Outside:
        def make_effects(db: Database, backends: Mapping[str, Backend], links: Links) -> Effects:
            return MortalEffects(db, backends, links, switch)

        def connector_for(instance: Instance) -> Connector:
            return HostConnector(self.clouds, instance, switch)

        def make_database(dialect: Dialect, clock: Clock) -> Database:
            return MortalDatabase(dialect, clock, switch, self.watch.committed)

        return Outside(
            dialect=BusySqlite(self._folder / "server.db", self.nature),
            clock=VirtualClock(asyncio.get_running_loop()),
            ids=self._ids,
            backends=self.clouds,
            logs=self.logs,
            blobs=BlobFiles(self._folder / "blobs"),
            connector_for=connector_for,
            make_database=make_database,
            make_effects=make_effects,
        )


@contextmanager
def world_folder() -> Iterator[Path]:
    """A folder for one world, in memory where the machine allows it."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="world-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def make_world(
    folder: Path,
    markets: Mapping[str, Sequence[Offer]],
    faults: Faults,
    chance: random.Random,
    dies: Decide | None = None,
) -> World:
    """A new world, in which nothing goes on yet.

    Args:
        markets: what each cloud has on sale, by its name.
        dies: when servers die; where unset, as the faults say.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "a world needs virtual time"
    await copy_database(folder / "server.db", loop)
    clouds = Clouds()
    watch = Watch(Ledger(folder / "server.db"), clouds, is_punctual=faults.find(DatabaseBusy) is None)
    nature = Nature(chance, faults, observer=watch)
    clouds.update({name: FakeCloud(name, on_sale, nature) for name, on_sale in markets.items()})
    return World(folder, clouds, nature, watch, dies or _as_faults_say(faults, chance))


def _as_faults_say(faults: Faults, chance: random.Random) -> Decide:
    crashes = faults.find(ServerCrashes)
    return never if crashes is None else at_random(chance, crashes.probability, crashes.at_most)
