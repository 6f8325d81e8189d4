"""Histories from seeds: one number, one life of a made-up world, with users, faults and crashes; the same each time."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dstack.errors import InvalidRequestError, NoCapacityError
from dstack.operations import runs, submitting, updating
from dstack.operations.context import Context
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import RunView
from dstack.store.users import User
from dstack.testing.crashes import Decide, points_of_calls
from dstack.testing.faults import Fault, Faults
from dstack.testing.plans import (
    FAULTS_OF_SCALING,
    FAULTS_OF_SERVICES,
    MARKETS,
    WITH_SCALING,
    WITH_SERVICES,
    Chances,
    Plan,
)
from dstack.testing.time import VirtualLoop
from dstack.testing.watch import Line, Violation
from dstack.testing.world import World, make_world, world_folder

PATIENCE_S = 12 * 3600.0
"""Everything has ended within these virtual seconds, or it never will."""
LEFT_OVER_S = 1800.0
"""Whatever exists after all that has found its end within these."""
TRY_AGAIN_AFTER_S = 60.0
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Story:
    """How a history went."""

    seed: int
    faults: tuple[str, ...]
    """The names of what went wrong."""
    servers: int
    violations: tuple[Violation, ...]
    ends: Counter[str]
    """How the runs ended."""
    stopped_in: Counter[str]
    """In which statuses users changed their minds."""
    deaths: tuple[str, ...]
    """Where servers died."""
    points: int
    """How many points they passed at which they could have died."""
    machines: int
    lasted_s: float
    lines: tuple[Line, ...]
    """What happened, in order."""

    def summary(self) -> "Story":
        """The same without its lines, which are many."""
        return replace(self, lines=())


@dataclass(frozen=True, slots=True)
class Script:
    """What is to happen in one history, as far as anybody plans it."""

    seed: int
    chance: random.Random
    faults: tuple[Fault, ...]
    plans: tuple[Plan, ...]
    dies: Decide | None = None
    """When servers die; where unset, as the faults say."""
    servers: int = 1


class History:
    """One life of a world, until its users have what they wanted."""

    def __init__(self, script: Script, world: World) -> None:
        self._seed = script.seed
        self._world = world
        self._watch = world.watch
        self._plans = script.plans
        self._stopped_in: Counter[str] = Counter()

    async def live(self) -> Story:
        """Until everything has ended, or patience has."""
        background = self._world.start()
        users = [asyncio.create_task(self._use(plan), name=plan.name) for plan in self._plans]
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._until_over(users)
            async with asyncio.timeout(LEFT_OVER_S):
                while self._watch.truth.machines and not self._watch.is_hopeless:
                    await self._watch.next_move()  # what was created late is found later still
        except TimeoutError:
            self._watch.told("everybody", "loses patience")
        self._watch.look_back(self._world.logs)
        self._watch.look_at_the_end()
        for task in (*background, *users):
            task.cancel()
        await asyncio.gather(*background, *users, return_exceptions=True)
        return self._story()

    async def _until_over(self, users: list[asyncio.Task[None]]) -> None:
        """Wait until all users have had their say and everything has ended, or there is no use in waiting."""
        served = asyncio.gather(*users)
        served.add_done_callback(lambda _: self._watch.wake())
        while not self._watch.is_hopeless:
            if served.done():
                served.result()  # raises the error of a user
                if self._watch.is_all_over:
                    return
            await self._watch.next_move()

    def _story(self) -> Story:
        return Story(
            seed=self._seed,
            servers=len(self._world.servers),
            faults=tuple(self._world.nature.faults.names()),
            violations=tuple(self._watch.violations),
            ends=Counter(status for _, status, _ in self._watch.ledger.runs().values()),
            stopped_in=self._stopped_in,
            deaths=tuple(
                death for server in self._world.servers for death in server.switch.deaths if death != "closed"
            ),
            points=sum(server.switch.points for server in self._world.servers),
            machines=sum(cloud.launches for cloud in self._world.clouds.values()),
            lasted_s=asyncio.get_running_loop().time(),
            lines=tuple(self._watch.story()),
        )

    async def _use(self, plan: Plan) -> None:
        await asyncio.sleep(plan.submit_at_s)
        self._world.nature.behaviours.set(plan.name, plan.behaviour)
        run_id = await self._submit(plan)
        visiting = asyncio.create_task(self._world.clients.visit(run_id, plan.visits), name=f"clients of {plan.name}")
        try:
            await self._change_and_stop(plan, run_id)
        finally:
            visiting.cancel()

    async def _change_and_stop(self, plan: Plan, run_id: str) -> None:
        configuration = plan.configuration
        for change in plan.changes:
            await asyncio.sleep(change.after_s)
            configuration = {**configuration, **change.fields}
            request = SubmitRun(run_name=plan.name, configuration=configuration)
            done = await self._world.server.ask(_update(request, is_forced=change.is_forced))
            self._watch.told(plan.name, f"{change.fields}: {done}")
        if plan.stop is None:
            return
        if plan.stop.when is not None and not await self._watch.reaches(run_id, plan.stop.when):
            return
        await asyncio.sleep(plan.stop.after_s)
        before = self._watch.ledger.run_status(run_id)
        if before is None:
            return  # it was lost, which somebody else will say
        self._stopped_in[before] += 1
        self._watch.told(plan.name, f"is to {'abort' if plan.stop.abort else 'stop'} while {before}")
        await self._world.server.ask(_stop(plan.name, abort=plan.stop.abort))

    async def _submit(self, plan: Plan) -> str:
        request = SubmitRun(run_name=plan.name, configuration=plan.configuration)

        async def submit(context: Context, user: User) -> RunView:
            return await submitting.submit(context, user, "main", request, plan.name)

        while True:
            try:
                view = await self._world.server.ask(submit)
            except NoCapacityError:  # a cloud does not answer just now; nothing was created
                await asyncio.sleep(TRY_AGAIN_AFTER_S)
            else:
                self._watch.truth.accepted.add(plan.name)
                self._watch.told(plan.name, f"is submitted: {plan.configuration}")
                return view.id


def _update(request: SubmitRun, *, is_forced: bool) -> Callable[[Context, User], Coroutine[Any, Any, str]]:
    """Change a service. A request whose answer was lost is made again, and may find that it has ended."""

    async def update(context: Context, user: User) -> str:
        try:
            await updating.update(context, user, "main", request.run_name or "", request, force=is_forced)
        except (InvalidRequestError, NoCapacityError) as error:
            return error.message
        return "changed at once" if is_forced else "changed"

    return update


def _stop(name: str, *, abort: bool) -> Callable[[Context, User], Coroutine[Any, Any, RunView]]:
    async def stop(context: Context, user: User) -> RunView:
        return await runs.stop(context, user, "main", name, abort=abort)

    return stop


async def _live(script: Script, folder: Path) -> Story:
    world = await make_world(folder, MARKETS, Faults(script.faults), script.chance, script.dies, script.servers)
    try:
        return await History(script, world).live()
    finally:
        world.close()


def script_of(seed: int, *, only_services: bool = False, only_scaling: bool = False) -> Script:
    """What is to happen in the history of this number.

    Args:
        only_services: leave out all runs but services, of which there is one at least.
        only_scaling: leave out all runs but a service that scales.
    """
    chances = Chances(random.Random(seed))
    servers = chances.draw_servers()
    faults = chances.draw_faults(servers)
    plans = tuple(chances.draw_plans())
    of_services = Chances(random.Random(f"services of {seed}"))  # the other histories stay as they were
    services = tuple(of_services.draw_services(1.0 if only_services else WITH_SERVICES))
    if services:
        faults += [fault for fault in FAULTS_OF_SERVICES if of_services.chance.random() < HALF]
    of_scaling = Chances(random.Random(f"scaling of {seed}"))
    scaling = tuple(of_scaling.draw_scaling(1.0 if only_scaling else 0.0 if only_services else WITH_SCALING))
    if scaling:
        faults += [fault for fault in FAULTS_OF_SCALING if of_scaling.chance.random() < HALF and fault not in faults]
    runs = scaling if only_scaling else services if only_services else (*plans, *services, *scaling)
    return Script(seed, chances.chance, tuple(faults), runs, servers=servers)


def play(script: Script) -> Story:
    """Live through what is written."""
    with world_folder() as folder, asyncio.Runner(loop_factory=lambda: VirtualLoop(points_of_calls)) as runner:
        return runner.run(_live(script, folder))


def tell(seed: int) -> Story:
    """Live through one history.

    Examples:
        >>> tell(1).violations
        ()
    """
    return play(script_of(seed))
