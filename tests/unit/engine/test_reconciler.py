"""What the reconciler does with a backend that has what nobody knows, and has not what somebody claims."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dstack.backends.base import Abilities, Backend, Machine, MachineState
from dstack.backends.registry import BackendRegistry
from dstack.domain.objects import Next
from dstack.engine.leases import Leases
from dstack.engine.lifecycles import check_move
from dstack.engine.reconciler import LOOK_EVERY, Reconciler
from dstack.errors import BackendError, BackendUnavailable
from dstack.protocol.statuses import InstanceStatus
from dstack.store import commits, events, objects
from dstack.store.db import Database
from tests.making import CLOUD, NOW, BareBackend, HandClock, instance
from tests.patience import PATIENCE_S


class Cloud(BareBackend):
    """Has the machines it is given, and lets go of them when asked for the second time."""

    def __init__(self, data_dir: Path) -> None:
        self.machines: list[tuple[str, str]] = []
        self.is_away = False
        self.asked: list[tuple[str, str | None]] = []
        self.looks = 0
        self.when_looked: Callable[[], object] = lambda: None

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        self.looks += 1
        self.when_looked()
        if self.is_away:
            raise BackendUnavailable("The cloud does not answer just now")
        return [Machine(id, of, MachineState.RUNNING) for id, of in self.machines]

    def terminate(self, key: str, keep: str | None = None) -> bool:
        self.asked.append((key, keep))
        if self.asked.count((key, keep)) < 2:
            return False
        self.machines = [(id, of) for id, of in self.machines if of != key or id == keep]
        return True


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
async def reconciler(db: Database, cloud: Cloud, clock: HandClock) -> Reconciler:
    leases = Leases(db, clock, "0-server", "here", alone=True)
    await leases.start()
    return Reconciler(db, BackendRegistry({"aws": cloud}), clock, leases)


async def claim(db: Database, **fields: object) -> None:
    machine = instance(version=0, offer=CLOUD, **fields)
    await db.write(lambda tx: commits.commit(tx, Next((machine,)), check_move))


async def look(reconciler: Reconciler, clock: HandClock, times: int) -> None:
    for _ in range(times):
        await reconciler._look_and_act("aws")
        clock.time += timedelta(seconds=70)


async def history(db: Database) -> list[str]:
    lines = await db.read(lambda tx: events.list_after(tx, "0-project", 0, run_id=None, limit=10, shared=True))
    return [line.kind for line in lines]


async def test_a_machine_that_nobody_claims_is_ended_once_that_is_sure_and_asked_again_until_it_is_gone(
    db: Database, reconciler: Reconciler, cloud: Cloud, clock: HandClock
) -> None:
    cloud.machines = [("m-9", "9-instance")]
    await look(reconciler, clock, 2)
    assert cloud.asked == [], "it may have been bought a moment ago, or ended"
    await look(reconciler, clock, 1)
    assert cloud.asked == [("9-instance", None)] * 2
    assert cloud.machines == [] and await history(db) == ["machine.orphan_ended"]


async def test_the_second_machine_of_an_instance_is_ended_and_the_first_is_kept(
    db: Database, reconciler: Reconciler, cloud: Cloud, clock: HandClock
) -> None:
    await claim(db)
    cloud.machines = [("m-1", "0-instance"), ("m-2", "0-instance")]
    await look(reconciler, clock, 4)
    assert cloud.machines == [("m-1", "0-instance")]
    assert await history(db) == ["machine.duplicate_ended"]


async def test_an_instance_hears_that_its_machine_is_gone_when_it_was_not_there_twice(
    db: Database, reconciler: Reconciler, clock: HandClock
) -> None:
    await claim(db, status=InstanceStatus.BUSY, unreachable_since=NOW)
    await look(reconciler, clock, 1)
    found = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert found is not None and found.gone_at is None
    await look(reconciler, clock, 1)
    found = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert found is not None and found.gone_at is not None


async def test_a_machine_whose_agent_answers_is_there_whatever_the_backend_lists(
    db: Database, cloud: Cloud, clock: HandClock, reconciler: Reconciler
) -> None:
    doubted: list[str] = []
    reconciler = Reconciler(db, BackendRegistry({"aws": cloud}), clock, reconciler._leases, doubted.append)
    await claim(db, status=InstanceStatus.BUSY)
    await look(reconciler, clock, 5)
    found = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert found is not None and found.gone_at is None
    assert set(doubted) == {"0-instance"}, "the link has to prove it"


async def test_a_backend_that_does_not_answer_has_nothing_ended_and_nothing_given_up(
    db: Database, reconciler: Reconciler, cloud: Cloud, clock: HandClock
) -> None:
    await claim(db, status=InstanceStatus.BUSY)
    cloud.is_away = True
    await look(reconciler, clock, 5)
    found = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert found is not None and found.gone_at is None


async def test_a_machine_whose_end_is_refused_holds_up_no_end_of_another(
    db: Database, reconciler: Reconciler, cloud: Cloud, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = cloud.terminate

    def terminate(key: str, keep: str | None = None) -> bool:
        if key == "8-instance":
            raise BackendError("The machine is locked")
        return end(key, keep)

    monkeypatch.setattr(cloud, "terminate", terminate)
    cloud.machines = [("m-8", "8-instance"), ("m-9", "9-instance")]
    await look(reconciler, clock, 3)
    assert cloud.machines == [("m-8", "8-instance")]


class ThisMachine(Cloud):
    """Lists exactly what it has."""

    abilities = Abilities(lists_exactly=True)


async def test_what_an_exact_list_has_and_nobody_claims_is_ended_at_the_first_look(
    db: Database, tmp_path: Path, clock: HandClock
) -> None:
    leases = Leases(db, clock, "0-server", "here", alone=True)
    await leases.start()
    machine = ThisMachine(tmp_path)
    machine.machines = [("m-9", "9-instance")]
    reconciler = Reconciler(db, BackendRegistry({"aws": machine}), clock, leases)
    await look(reconciler, clock, 1)
    assert machine.machines == [] and await history(db) == ["machine.orphan_ended"]


async def test_what_ended_while_an_exact_list_was_made_was_claimed(
    db: Database, tmp_path: Path, clock: HandClock
) -> None:
    leases = Leases(db, clock, "0-server", "here", alone=True)
    await leases.start()
    await claim(db, status=InstanceStatus.TERMINATING)
    machine = ThisMachine(tmp_path)
    machine.machines = [("m-1", "0-instance")]
    reconciler, loop = Reconciler(db, BackendRegistry({"aws": machine}), clock, leases), asyncio.get_running_loop()

    async def end() -> None:
        found = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
        assert found is not None
        gone = replace(found, status=InstanceStatus.TERMINATED, finished_at=NOW)
        await db.write(lambda tx: commits.record(tx, gone))

    machine.when_looked = lambda: asyncio.run_coroutine_threadsafe(end(), loop).result(20)
    assert await reconciler.look("aws") == []


class DayClock(HandClock):
    """The five minutes between two looks never pass; everything shorter passes at once."""

    async def sleep(self, span: timedelta) -> None:
        if span >= LOOK_EVERY:
            await asyncio.Event().wait()
        self.time += span


@pytest.fixture
def day() -> DayClock:
    return DayClock()


async def running(db: Database, day: DayClock, **clouds: Backend) -> Reconciler:
    leases = Leases(db, day, "0-server", "here", alone=True)
    await leases.start()
    return Reconciler(db, BackendRegistry(clouds), day, leases)


async def test_a_machine_that_falls_silent_while_backends_are_asked_has_them_asked_again(
    db: Database, cloud: Cloud, day: DayClock
) -> None:
    looks: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    reconciler = await running(db, day, aws=cloud)

    def nudged_meanwhile() -> None:
        if cloud.looks == 1:
            loop.call_soon_threadsafe(reconciler.nudge)
        loop.call_soon_threadsafe(looks.put_nowait, cloud.looks)

    cloud.when_looked = nudged_meanwhile
    reconciler.start()
    async with asyncio.timeout(PATIENCE_S):
        assert [await looks.get(), await looks.get()] == [1, 2]
    await reconciler.close()


async def test_a_backend_that_hangs_holds_up_no_look_at_another(
    db: Database, cloud: Cloud, tmp_path: Path, day: DayClock
) -> None:
    """A machine that nobody claims is ended as soon as without it."""
    over, hanging, ended = threading.Event(), Cloud(tmp_path), asyncio.Event()
    hanging.when_looked = over.wait
    cloud.machines = [("m-9", "9-instance")]
    db.listen(lambda notices: ended.set() if notices.events else None)
    reconciler = await running(db, day, a_hanging_one=hanging, aws=cloud)
    reconciler.start()
    async with asyncio.timeout(PATIENCE_S):
        await ended.wait()
    assert cloud.machines == [] and cloud.looks == 3 and hanging.looks == 1
    over.set()
    await reconciler.close()


async def test_machine_of_another_backend_with_the_same_account_is_no_orphan(
    db: Database, reconciler: Reconciler, cloud: Cloud, clock: HandClock
) -> None:
    machine = instance(version=0, offer=replace(CLOUD, backend_id="1-second"), machine_id="m-1")
    await db.write(lambda tx: commits.commit(tx, Next((machine,)), check_move))
    cloud.machines = [("m-1", "0-instance"), ("m-9", "9-instance")]
    assert [one.key for one in await reconciler.look("aws")] == ["9-instance"]
