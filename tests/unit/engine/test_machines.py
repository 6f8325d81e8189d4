"""How machines are bought, looked up and ended, as their backends answer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from dstack.backends.base import Abilities, Address, Backend, LaunchRequest, Machine, MachineState
from dstack.backends.registry import BackendRegistry
from dstack.domain.intents import Done, LaunchMachine, LocateMachine, ShutDownAgent, TerminateMachine
from dstack.domain.objects import Instance, Next
from dstack.engine.effects import Effects
from dstack.engine.lifecycles import check_move
from dstack.engine.links import Links
from dstack.errors import BackendUnavailable, HostUnreachable
from dstack.hosts.link import Link
from dstack.kit.vault import Vault
from dstack.protocol.statuses import InstanceStatus
from dstack.store import commits
from dstack.store.db import Database
from dstack.testing.world import TEST_KEY
from tests.making import CLOUD, NOW, BareBackend, instance
from tests.patience import PATIENCE_S

ADDRESS = Address("10.0.0.7", user="ubuntu")
LONG_ID = "0190f3a0-0000-7000-8000-123456789abc"


class Cloud(BareBackend):
    """Answers as a test wants, and remembers what it was asked."""

    abilities = Abilities(locate_every=None)

    def __init__(self, data_dir: Path) -> None:
        self.asked: list[str] = []
        self.requests: list[LaunchRequest] = []
        self.machines: list[Machine] = []
        self.is_away = False
        self.confirms = True

    def launch(self, request: LaunchRequest) -> Machine:
        self.requests.append(request)
        return Machine("m-1", request.key, MachineState.PENDING, detail="it is being made")

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        if self.is_away:
            raise BackendUnavailable("The cloud does not answer")
        return self.machines

    def terminate(self, key: str, keep: str | None = None) -> bool:
        self.asked.append("terminate")
        return self.confirms


class PlayedLinks:
    """One link, whose agent shuts down as a test wants."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.grace_s: float | None = None
        self.is_reachable = True

    def follow(self, instance: Instance) -> Link:
        return cast(Link, self)

    async def shut_down(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._cloud.asked.append("shut down")
        if not self.is_reachable:
            raise HostUnreachable("The agent did not answer within 30 s")

    async def drop(self, instance_id: str) -> None:
        self._cloud.asked.append("drop the link")


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def links(cloud: Cloud) -> PlayedLinks:
    return PlayedLinks(cloud)


@pytest.fixture
async def effects(db: Database, cloud: Cloud, links: PlayedLinks) -> AsyncIterator[Effects]:
    backends = BackendRegistry({"aws": cast(Backend, cloud)})
    yield Effects(db, backends, cast(Links, links), Vault([TEST_KEY]))
    await backends.close()


async def record(db: Database, **fields: object) -> None:
    one = instance(version=0, offer=CLOUD, **fields)
    await db.write(lambda tx: commits.commit(tx, Next((one,)), check_move))


async def test_a_launch_names_the_machine_for_people_and_its_key_for_dstack(
    db: Database, effects: Effects, cloud: Cloud
) -> None:
    await record(db, id=LONG_ID, project_id="0-project", status=InstanceStatus.PENDING, machine_id=None, address=None)
    done = await effects.perform(LaunchMachine(LONG_ID, "aws"))
    [request] = cloud.requests
    assert (request.key, request.name, request.offer) == (LONG_ID, "dstack-main-123456789abc", CLOUD)
    assert request.tags == {"dstack_project": "main", "dstack_instance": LONG_ID}
    news = {"machine_id": "m-1", "state": "pending", "address": None, "detail": "it is being made"}
    assert done == Done({**news, "boot_timeout_s": 600.0, "locate_every_s": None})


async def test_launch_without_an_answer_is_not_repeated_and_holds_up_the_end_of_its_instance(
    db: Database, effects: Effects, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, returns = threading.Event(), threading.Event()

    def launch(request: LaunchRequest) -> Machine:
        cloud.requests.append(request)
        began.set()
        returns.wait()
        return Machine("m-1", request.key, MachineState.PENDING)

    monkeypatch.setattr(cloud, "launch", launch)
    await record(db, status=InstanceStatus.PENDING, machine_id=None, address=None)
    asked = asyncio.ensure_future(effects.perform(LaunchMachine("0-instance", "aws")))
    await asyncio.to_thread(began.wait)
    asked.cancel()
    with pytest.raises(BackendUnavailable, match="has not answered the launch yet"):
        await effects.perform(LaunchMachine("0-instance", "aws"))
    assert len(cloud.requests) == 1
    with pytest.raises(BackendUnavailable, match="has not returned"):
        await effects.perform(TerminateMachine("0-instance", "aws"))
    assert "terminate" in cloud.asked, "its machine may exist already"
    returns.set()
    async with asyncio.timeout(PATIENCE_S):
        while effects.launching:
            await db.read(lambda tx: None)
    assert await effects.perform(TerminateMachine("0-instance", "aws")) == Done({})


async def test_a_look_up_returns_the_state_and_the_address_of_its_own_machine(
    db: Database, effects: Effects, cloud: Cloud
) -> None:
    await record(db, status=InstanceStatus.PROVISIONING, address=None)
    look = LocateMachine("0-instance", 1, "aws")
    assert await effects.perform(look) == Done({}), "clouds list late"
    cloud.machines = [Machine("m-2", "0-instance", MachineState.FAILED)]
    assert await effects.perform(look) == Done({}), "a second machine of this key is the reconciler's matter"
    cloud.machines.append(Machine("m-1", "0-instance", MachineState.RUNNING, ADDRESS))
    address = {"host": "10.0.0.7", "port": 22, "user": "ubuntu", "internal_ip": None}
    assert await effects.perform(look) == Done({"state": "running", "address": address, "detail": ""})


async def test_a_look_up_that_is_not_answered_is_over_so_that_the_end_of_the_machine_does_not_wait(
    db: Database, effects: Effects, cloud: Cloud
) -> None:
    await record(db, status=InstanceStatus.PROVISIONING, address=None)
    cloud.is_away = True
    done = await effects.perform(LocateMachine("0-instance", 1, "aws"))
    assert done == Done({"state": "pending", "address": None, "detail": "The cloud does not answer"})


@pytest.mark.parametrize("is_reachable", [True, False])
async def test_a_machine_ends_after_its_agent_whether_it_answers_or_not(
    db: Database, effects: Effects, cloud: Cloud, links: PlayedLinks, is_reachable: bool
) -> None:
    await record(db, status=InstanceStatus.TERMINATING)
    links.is_reachable = is_reachable
    await effects.perform(ShutDownAgent("0-instance", 3600.0))
    assert cloud.asked == ["shut down", "drop the link"] and links.grace_s == 3600.0
    cloud.confirms = False
    with pytest.raises(BackendUnavailable, match="still ending") as caught:
        await effects.perform(TerminateMachine("0-instance", "aws"))
    assert caught.value.retryable
    cloud.confirms = True
    assert await effects.perform(TerminateMachine("0-instance", "aws")) == Done({})
    assert cloud.asked.count("shut down") == 1, "the agent has left: a link would start another one"


async def test_machine_that_was_given_up_is_asked_for_no_more(db: Database, effects: Effects, cloud: Cloud) -> None:
    await record(db, status=InstanceStatus.TERMINATED, finished_at=NOW)
    assert await effects.perform(TerminateMachine("0-instance", "aws")) == Done({})
    assert "terminate" not in cloud.asked
