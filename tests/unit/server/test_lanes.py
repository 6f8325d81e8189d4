"""A cloud that hangs holds up its own calls only: all of a server, with clouds that never return."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from dstack.backends import Drivers
from dstack.backends.base import LaunchRequest, Machine, MachineState
from dstack.blobs.files import BlobFiles
from dstack.domain.objects import Next
from dstack.domain.offers import Offer
from dstack.engine.lifecycles import check_move
from dstack.kit.clock import SystemClock
from dstack.kit.ids import RandomIds
from dstack.kit.vault import Vault
from dstack.logs.files import LogFiles
from dstack.operations import planning, submitting
from dstack.protocol.agent import HostResources
from dstack.protocol.requests import SubmitRun
from dstack.protocol.statuses import InstanceStatus
from dstack.server.parts import Outside, Parts
from dstack.store import commits, users
from dstack.store.sqlite import Sqlite
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.world import TEST_KEY
from tests.making import BareBackend, instance
from tests.patience import PATIENCE_S

TOKEN = "the token of a test"
HANGING, GOOD = 64, 8


class Cloud(BareBackend):
    """Sells machines that fail at once, and counts what it is asked for."""

    def __init__(self, name: str) -> None:
        self.offer = Offer(name, "eu", "large", HostResources(8, 32_768, 200_000), price=1.0)
        self.launched: list[str] = []
        self.ended: list[str] = []
        self.listed = 0

    def offers(self) -> Sequence[Offer]:
        return [self.offer]

    def launch(self, request: LaunchRequest) -> Machine:
        self.launched.append(request.key)
        return Machine(request.key, request.key, MachineState.FAILED, detail="no quota")

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        self.listed += 1
        return []

    def terminate(self, key: str, keep: str | None = None) -> bool:
        self.ended.append(key)
        return True


class HangsInLaunch(Cloud):
    """Answers everything but launches."""

    def __init__(self, name: str, over: threading.Event) -> None:
        super().__init__(name)
        self._over = over

    def launch(self, request: LaunchRequest) -> Machine:
        self.launched.append(request.key)
        self._over.wait()
        return super().launch(request)


class NeverAnswers(Cloud):
    """Answers nothing."""

    def __init__(self, name: str, over: threading.Event) -> None:
        super().__init__(name)
        self._over = over

    def offers(self) -> Sequence[Offer]:
        self._over.wait()
        return []

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        self._over.wait()
        return []

    def terminate(self, key: str, keep: str | None = None) -> bool:
        self.ended.append(key)
        self._over.wait()
        return True


class World:
    """A server with a good cloud, one that hangs in launches, and one that never answers."""

    def __init__(self, folder: Path, *, is_one_silent: bool) -> None:
        clock, self._over = SystemClock(), threading.Event()
        self.good, self.hanging = Cloud("aws"), HangsInLaunch("azure", self._over)
        self.silent = NeverAnswers("gcp", self._over)
        clouds: list[Cloud] = [self.hanging, self.good, *([self.silent] if is_one_silent else [])]
        outside = Outside(
            dialect=Sqlite(folder / "server.db"),
            clock=clock,
            ids=RandomIds(clock),
            backends={cloud.offer.backend: cloud for cloud in clouds},
            drivers=Drivers(folder),
            logs=LogFiles(folder / "logs"),
            blobs=BlobFiles(folder / "blobs"),
            vault=Vault([TEST_KEY]),
        )
        self.parts = Parts(outside)
        self.user: User | None = None

    async def start(self) -> None:
        await self.parts.start(TOKEN)
        self.user = await self.parts.context.db.read(lambda tx: users.find_by_token(tx, TOKEN))

    async def close(self) -> None:
        self._over.set()
        await self.parts.close()

    async def submit(self, cloud: Cloud, name: str) -> None:
        assert self.user is not None
        await submitting.submit(self.parts.context, self.user, "main", request(cloud, name), name)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await self.parts.context.db.read(lambda tx: None)


def request(cloud: Cloud, name: str) -> SubmitRun:
    configuration = {"type": "task", "commands": ["true"], "backends": [cloud.offer.backend]}
    return SubmitRun(run_name=name, configuration=configuration)


@pytest.fixture(
    params=[
        pytest.param(False, id="one hangs"),
        pytest.param(True, id="one hangs, and one never answers"),
    ]
)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, is_one_silent=request.param)
    await world.start()
    yield world
    await world.close()


async def test_clouds_that_hang_hold_up_no_submit_plan_launch_or_end_of_others(world: World) -> None:
    good, hanging = world.good, world.hanging
    own = instance(
        version=0, offer=hanging.offer, status=InstanceStatus.TERMINATING, agent_seen_at=None, machine_id="m-1"
    )

    def seed(tx: Tx) -> None:
        commits.commit(tx, Next((own,)), check_move)

    async with asyncio.timeout(PATIENCE_S):
        for number in range(HANGING):
            await world.submit(hanging, f"hangs-{number}")
        await world.until(lambda: len(hanging.launched) > 0)
        await world.parts.context.db.write(seed)
        for number in range(GOOD):
            await world.submit(good, f"good-{number}")
        assert world.user is not None
        await planning.plan(world.parts.context, world.user, "main", request(good, "planned"))
    await world.until(lambda: len(good.ended) == GOOD)
    assert sorted(good.launched) == sorted(good.ended), "each machine that failed is ended"
    await world.until(lambda: own.id in hanging.ended)
    assert 0 < len(hanging.launched) < HANGING, "its own launches wait for each other"
    assert good.listed > 0, "its machines are compared with the record"
