"""Histories from seeds: one number, one life of a made-up world, with users, faults and crashes; the same each time."""

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack.domain.offers import Offer
from dstack.errors import NoCapacityError
from dstack.operations import runs
from dstack.operations.context import Context
from dstack.protocol.agent import HostResources
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import RunView
from dstack.store import objects
from dstack.store.users import User
from dstack.testing.clouds import CloudFaults, FakeCloud
from dstack.testing.hosts import Host
from dstack.testing.time import VirtualLoop
from dstack.testing.world import World

RUNS = 20
SUBMITS_WITHIN_S = 1800
PATIENCE_S = 2 * 86_400.0
"""Everything has ended within these virtual seconds, or it never will."""
LOOK_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Story:
    """How a history went."""

    seed: int
    violations: tuple[str, ...]
    ends: Counter[str]
    crashes: int
    machines: int
    lines: tuple[str, ...]
    """What happened, in order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one user will do."""

    name: str
    submit_at_s: float
    stop_at_s: float | None
    abort: bool
    configuration: dict[str, Any]


def plans_of(chance: random.Random) -> Iterator[Plan]:
    """What the users of a world will do."""
    for number in range(RUNS):
        at_s = chance.uniform(0, SUBMITS_WITHIN_S)
        seconds = chance.choice([0, 1, 30, 300, 1200])
        configuration: dict[str, Any] = {
            "type": "task",
            "commands": [f"simulate {seconds} {chance.choice([0, 0, 0, 1])} {chance.choice([0, 10, 5000])}"],
            "nodes": chance.choice([1, 1, 1, 2, 3]),
            "priority": chance.choice([0, 0, 50]),
            "retry": chance.choice([False, True]),
            "backends": chance.choice([["local"], ["aws"], ["local", "aws"]]),
        }
        if chance.random() < 0.2:
            configuration["max_duration"] = 60
        stop_at_s = at_s + chance.expovariate(1 / 300) if chance.random() < 0.4 else None
        yield Plan(f"run-{number}", at_s, stop_at_s, chance.random() < 0.5, configuration)


def clouds_of(chance: random.Random) -> dict[str, FakeCloud]:
    """A machine that is shared, and a cloud that is not; each with faults of its own."""
    faults = CloudFaults(
        sold_out=chance.choice([0, 0.2]),
        reply_lost=chance.choice([0, 0.3]),
        unavailable=chance.choice([0, 0.2]),
        end_refused=chance.choice([0, 0.5]),
    )
    here = Offer("local", "local", "local", HostResources(4, 16_384, 100_000), 0.0, shared=True, machines_max=1)
    there = Offer("aws", "eu", "m5.large", HostResources(2, 8192, 102_400), 0.1, machines_max=4)
    folder = Path("/nowhere")
    return {
        offer.backend: FakeCloud(folder, name=offer.backend, offer=offer, faults=faults, chance=chance)
        for offer in (here, there)
    }


class History:
    """One life of a world."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed = seed
        self._chance = random.Random(seed)
        self._clouds = clouds_of(self._chance)
        self._plans = list(plans_of(self._chance))
        self._world = World(folder, self._clouds, self._chance, crashes=self._chance.choice([0, 3, 10]))
        self._violations: list[str] = []
        self._lines: list[str] = []

    async def live(self) -> Story:
        """Until everything has ended, or patience has."""
        for cloud in self._clouds.values():
            cloud.on_start = self._check_started
        background = [
            asyncio.create_task(self._world.keep_server_up(), name="server"),
            asyncio.create_task(self._trouble(), name="trouble"),
        ]
        users = [asyncio.create_task(self._use(plan), name=plan.name) for plan in self._plans]
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*users)
                await self._wait_for_the_end()
        except TimeoutError:
            self._violations.append("not everything ended in time")
        views = await self._world.ask(self._list)
        self._check_ends(views)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        return Story(
            seed=self._seed,
            violations=tuple(self._violations),
            ends=Counter(f"{view.status}" for view in views),
            crashes=self._world.crashes.count,
            machines=sum(len(cloud.launched) for cloud in self._clouds.values()),
            lines=tuple(self._lines),
        )

    def _say(self, line: str) -> None:
        self._lines.append(f"{asyncio.get_running_loop().time():10.2f}  {line}")

    async def _use(self, plan: Plan) -> None:
        await asyncio.sleep(plan.submit_at_s)
        request = SubmitRun(run_name=plan.name, configuration=plan.configuration)

        async def submit(context: Context, user: User) -> RunView:
            return await runs.submit(context, user, "main", request, plan.name)

        while True:
            try:
                await self._world.ask(submit)
                break
            except NoCapacityError:  # a cloud does not answer just now; nothing was created
                await asyncio.sleep(LOOK_EVERY_S)
        self._say(f"{plan.name} is submitted: {plan.configuration}")
        if plan.stop_at_s is not None:
            await asyncio.sleep(plan.stop_at_s - plan.submit_at_s)

            async def stop(context: Context, user: User) -> RunView:
                return await runs.stop(context, user, "main", plan.name, abort=plan.abort)

            await self._world.ask(stop)
            self._say(f"{plan.name} is to {'abort' if plan.abort else 'stop'}")

    async def _trouble(self) -> None:
        """Links break, agents restart, machines are taken away."""
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / 200))
            hosts = self._world.hosts
            if not hosts:
                continue
            host = self._chance.choice(hosts)
            trouble = self._chance.choice(["cut", "cut", "restart", "long restart", "reclaim"])
            self._say(f"{trouble}: {host.key}")
            self._befall(host, trouble)

    def _befall(self, host: Host, trouble: str) -> None:
        match trouble:
            case "cut":
                host.disconnect()
            case "restart":
                host.restart_agent(down_s=5)
            case "long restart":
                host.restart_agent(down_s=900)
            case "reclaim":
                for cloud in self._clouds.values():
                    if host.key in cloud.hosts:
                        cloud.reclaim(host.key)

    def _check_started(self, host: Host, job_id: str, run_id: str, node: str) -> None:
        """No job is started twice, and no other attempt of it runs at the same time."""
        self._say(f"job {job_id} of {run_id} starts on {host.key}")
        everywhere = [*self._world.hosts, *(one for cloud in self._clouds.values() for one in cloud.ended.values())]
        if sum(one.started.count(job_id) for one in everywhere) > 1:
            self._violations.append(f"job {job_id} was started twice")
        for one in self._world.hosts:
            for job in one.running:
                env = job.order.env
                same = env["DSTACK_RUN_ID"] == run_id and env["DSTACK_NODE_RANK"] == node
                if same and job.order.job_id != job_id:
                    self._violations.append(f"jobs {job_id} and {job.order.job_id} of {run_id} run at once")

    async def _list(self, context: Context, user: User) -> list[RunView]:
        page = await runs.list_page(context, user, "main", finished_too=True, limit=100, before=None)
        return page.runs

    async def _wait_for_the_end(self) -> None:
        """Until no run and no instance is left that has not ended."""

        async def left(context: Context, _: User) -> int:
            return await context.db.read(lambda tx: objects.count_unfinished_runs(tx) + len(objects.live_instances(tx)))

        while await self._world.ask(left):  # noqa: ASYNC110 - who looks from outside is told of nothing
            await asyncio.sleep(LOOK_EVERY_S)

    def _check_ends(self, views: list[RunView]) -> None:
        missing = {plan.name for plan in self._plans} - {view.name for view in views}
        self._violations += [f"{name} was accepted and is lost" for name in sorted(missing)]
        self._violations += [f"{view.name} is still {view.status}" for view in views if not view.status.is_finished()]
        for cloud in self._clouds.values():
            self._violations += [f"the machine {key} in {cloud.name} is leaked" for key in cloud.hosts]
            self._violations += [f"{key} was launched twice" for key, n in Counter(cloud.launched).items() if n > 1]
        for view in views:
            self._say(f"{view.name} ended: {view.status} {view.reason} {view.detail}")


def tell(seed: int) -> Story:
    """Live through one history.

    Example:
        >>> tell(1).violations
        ()
    """
    folder = Path(tempfile.mkdtemp(prefix="history-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            history = History(seed, folder)
            return runner.run(history.live())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
