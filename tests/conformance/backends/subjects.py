"""The drivers that pass the suite: of this machine, and of the simulated cloud."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dstack.agent.paths import Home
from dstack.backends.base import Backend, Machine
from dstack.backends.local import Local
from dstack.hosts.local import start_agent
from dstack.testing.clouds import Account, FakeCloud
from dstack.testing.faults import (
    EventualConsistency,
    FailedBoots,
    Fault,
    Faults,
    LateAddresses,
    RefusedEnds,
    SoldOut,
    Unavailable,
)
from dstack.testing.markets import markets_of
from dstack.testing.nature import Nature
from dstack.testing.time import VirtualLoop
from tests.conformance.backends.subject import Subject
from tests.patience import PATIENCE_S

ALWAYS_S, SOON_S = 1e9, 1e-9
PAUSE_S = 0.1


@contextmanager
def local(folder: Path) -> Iterator[Subject]:
    """This machine, whose agents really run."""
    here, elsewhere = folder / "here", folder / "elsewhere"
    agents: dict[Path, int] = {}

    def exist() -> int:
        homes = {path for path in (here / "machines").glob("*") if path.is_dir()}
        return len(homes | {home for home, pid in agents.items() if _is_alive(pid)})

    def boot(machine: Machine) -> None:
        home = Home(Path(machine.id))
        start_agent(home.root)
        agents[home.root] = int(home.lock.read_bytes().partition(b"\n")[0])

    subject = Subject(
        name="local",
        machines_max=1,
        make=lambda: Local(here),
        exist=exist,
        wait=lambda seconds: time.sleep(min(seconds, PAUSE_S)),
        asks_max=int(PATIENCE_S / PAUSE_S),
        elsewhere=lambda: Local(elsewhere),
        boot=boot,
    )
    try:
        yield subject
    finally:
        for machine in Local(here).look_up():
            subject.end(Local(here), machine.key)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def simulated(*faults: Fault) -> Iterator[Subject]:
    """The simulated cloud, with what may be wrong there."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        asyncio.events._set_running_loop(loop)  # drivers are plain code: nothing else runs in this loop
        try:
            yield _subject_of(loop, faults)
        finally:
            asyncio.events._set_running_loop(None)


def _subject_of(loop: VirtualLoop, faults: tuple[Fault, ...]) -> Subject:
    account = Account()
    loop.skip(1.0)  # what is always wrong has begun

    def driver(*more: Fault, has_good_key: bool = True) -> Callable[[], Backend]:
        return lambda: _cloud(account, *faults, *more, has_good_key=has_good_key)

    return Subject(
        name="aws",
        machines_max=None,
        make=driver(),
        exist=lambda: len(account.hosts),
        wait=loop.skip,
        elsewhere=lambda: _cloud(Account(), *faults),
        at_once=lambda calls: [call() for call in calls],
        sold_out=driver(SoldOut(every_s=SOON_S, lasts_s=ALWAYS_S)),
        failing=driver(FailedBoots(probability=1.0)),
        unreachable=driver(Unavailable(every_s=SOON_S, lasts_s=ALWAYS_S)),
        unauthorized=driver(has_good_key=False),
    )


def _cloud(account: Account, *faults: Fault, has_good_key: bool = True) -> FakeCloud:
    nature = Nature(random.Random(1), Faults(faults))
    return FakeCloud("aws", markets_of(["aws"])["aws"], nature, account, has_good_key=has_good_key)


WRONG = (EventualConsistency(), RefusedEnds(), LateAddresses())
"""The faults that the contract allows for."""
