"""A world for the real server: made-up clouds and hosts, and servers that die when told to and start again."""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dstack.backends.registry import BackendRegistry
from dstack.blobs.files import BlobFiles
from dstack.domain.intents import Intent
from dstack.domain.objects import Instance
from dstack.domain.offers import Offer
from dstack.engine.effects import Effects
from dstack.engine.links import Links
from dstack.errors import HostUnreachable
from dstack.hosts.inbox import Connector
from dstack.kit.clock import Clock, CorrectedClock, SystemClock
from dstack.kit.vault import Vault
from dstack.logs.files import LogFiles
from dstack.server.parts import Outside, Parts
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.testing.changes import change_backends, change_runs
from dstack.testing.clients import Clients
from dstack.testing.clouds import Clouds, FakeCloud, MadeUpDrivers
from dstack.testing.crashes import CrashSwitch, Decide, MortalDatabase, MortalEffects, at_random, never
from dstack.testing.databases import BusySqlite, Exchange, SharedSqlite, copy_database
from dstack.testing.faults import BackendChanges, ClockJumps, DatabaseBusy, Faults, ServerCrashes, WrongClocks
from dstack.testing.ledger import Ledger
from dstack.testing.nature import Nature
from dstack.testing.planes import DataPlane, kill_planes
from dstack.testing.servers import TERMS, Server
from dstack.testing.time import START, VirtualClock, VirtualLoop
from dstack.testing.troubles import troubles_of
from dstack.testing.watch import Watch

TEST_KEY = "bm90IGEgc2VjcmV0IGF0IGFsbCwgb25seSBhIHRlc3Q="


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
        cloud, key = self.clouds[self.instance.offer.backend], self.instance.id
        host = cloud.hosts.get(key)
        if host is None or not cloud.has_address(key):
            raise HostUnreachable(f"There is no machine for `{key}`")
        pipe = host.connect()
        pipe.passes = self.switch.passes
        return pipe.streams()


class World:
    """Servers in a folder of their own, among made-up clouds."""

    def __init__(
        self, folder: Path, clouds: Clouds, nature: Nature, watch: Watch, dies: Decide, *, servers: int = 1
    ) -> None:
        self.clouds = clouds
        """Those without rows are there from the start; a row of a type stands for the cloud of that name."""
        changes = nature.find(BackendChanges)
        self._from_start = tuple(name for name in clouds if changes is None or name != changes.name)
        self.nature = nature
        self.watch = watch
        self.logs = LogFiles(folder / "logs")
        self.folder = folder
        """Where the server keeps its database, logs and uploads."""
        self._ids = SeededIds(nature.chance)
        self._exchange = Exchange(nature)
        names = ["server"] if servers == 1 else [f"server {number}" for number in range(1, servers + 1)]
        self.servers = [
            Server(name, CrashSwitch(dies), partial(self._make_parts, number), nature, alone=servers == 1)
            for number, name in enumerate(names)
        ]

        self._planes = [DataPlane(server, nature, watch) for server in self.servers]
        self.clients = Clients(nature, self._planes)

    @property
    def server(self) -> Server:
        """The one that a user talks to: any."""
        return self.servers[0] if len(self.servers) == 1 else self.nature.chance.choice(self.servers)

    def start(self) -> "list[asyncio.Task[None]]":
        """Set everything going; cancel what is returned to end it."""
        tasks = [asyncio.create_task(server.keep_up(), name=server.name) for server in self.servers]
        for server, plane in zip(self.servers, self._planes, strict=True):
            tasks.append(asyncio.create_task(plane.live(), name=f"data plane of {server.name}"))
        if len(self.servers) > 1:
            tasks += [
                asyncio.create_task(server.suffer(), name=f"what befalls {server.name}") for server in self.servers
            ]
        tasks += [asyncio.create_task(trouble) for trouble in troubles_of(self.nature, self.clouds)]
        changing = change_runs(self.nature, self.watch.ledger, lambda: self.server)
        tasks.append(asyncio.create_task(changing, name="users change runs"))
        tasks.append(asyncio.create_task(kill_planes(self.nature, self._planes), name="data planes are killed"))
        coming = change_backends(self.nature, lambda: self.server)
        tasks.append(asyncio.create_task(coming, name="an admin changes backends"))
        return [*tasks, asyncio.create_task(self.watch.scan(), name="scan")]

    def open_cloud(self, name: str, on_sale: Sequence[Offer]) -> None:
        """Make a cloud, unless there is one of this name. Servers use it once there is a row of its type."""
        if name not in self.clouds:
            self.clouds[name] = FakeCloud(name, on_sale, self.nature)

    def close(self) -> None:
        """Let go of what it holds; nothing may go on any more."""
        self.watch.ledger.close()

    def _make_parts(self, number: int, switch: CrashSwitch) -> Parts:
        parts = Parts(self._outside(number, switch))
        if self._planes[number].has_begun:
            parts.leases.expect_data_plane()
        return parts

    def _outside(self, number: int, switch: CrashSwitch) -> Outside:
        name, watch = self.servers[number].name, self.watch

        def make_effects(db: Database, backends: BackendRegistry, links: Links, vault: Vault) -> Effects:
            def began(intent: Intent) -> None:
                watch.acts(name, intent.shard_key)

            return MortalEffects(db, backends, links, vault, switch, began)

        def connector_for(instance: Instance) -> Connector:
            return HostConnector(self.clouds, instance, switch)

        def make_database(dialect: Dialect, clock: Clock) -> Database:
            return MortalDatabase(dialect, clock, switch, partial(watch.committed, name))

        clock, dialect = self._foundation(number)
        return Outside(
            dialect=dialect,
            clock=clock,
            ids=self._ids,
            backends={name: self.clouds[name] for name in self._from_start},
            drivers=MadeUpDrivers(self.clouds),
            logs=self.logs,
            blobs=BlobFiles(self.folder / "blobs"),
            connector_for=connector_for,
            make_database=make_database,
            vault=Vault([TEST_KEY]),
            make_effects=make_effects,
            hostname=name,
            lease_terms=TERMS,
        )

    def _foundation(self, number: int) -> tuple[Clock, Dialect]:
        loop, path = asyncio.get_running_loop(), self.folder / "server.db"
        if len(self.servers) == 1:
            return self._clock_of_one(loop), BusySqlite(path, self.nature)
        wrong = self.nature.find(WrongClocks)
        clock = CorrectedClock(VirtualClock(loop, 0.0 if wrong is None else wrong.ahead_s * number))
        return clock, SharedSqlite(path, self.nature, clock, self._exchange)

    def _clock_of_one(self, loop: asyncio.AbstractEventLoop) -> Clock:
        jumps = self.nature.find(ClockJumps)
        if jumps is None:
            return VirtualClock(loop)
        return SystemClock(lambda: START.timestamp() + loop.time() + jumps.at(loop.time()), loop.time)


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
    servers: int = 1,
) -> World:
    """A new world, in which nothing goes on yet.

    Args:
        markets: what each cloud has on sale, by its name.
        dies: when servers die; where unset, as the faults say.
        servers: how many work on one database.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "a world needs virtual time"
    await copy_database(folder / "server.db", loop)
    clouds = Clouds()
    watch = Watch(Ledger(folder / "server.db"), clouds, is_punctual=servers == 1 and faults.find(DatabaseBusy) is None)
    nature = Nature(chance, faults, observer=watch)
    clouds.update({name: FakeCloud(name, on_sale, nature) for name, on_sale in markets.items()})
    return World(folder, clouds, nature, watch, dies or _as_faults_say(faults, chance), servers=servers)


def _as_faults_say(faults: Faults, chance: random.Random) -> Decide:
    crashes = faults.find(ServerCrashes)
    return never if crashes is None else at_random(chance, crashes.probability, crashes.at_most)
