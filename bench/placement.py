"""The cost of 50,000 offers: in a submit, in a plan and in a placement pass, beside a loop over all offers.

The offers are as clouds have them: 1,500 kinds of machines, in regions, on demand and as spot. There are 1,000 machines
in use, and 10,000 jobs wait with 200 different requirements.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import insert

from bench.figures import Figure, Goal
from dstack.backends import Drivers
from dstack.backends.registry import BackendRegistry
from dstack.blobs.files import BlobFiles
from dstack.domain.market import Market
from dstack.domain.objects import Instance, Job, Next, Run
from dstack.domain.offers import Bounds, Demand, GpuDemand, Offer, Share
from dstack.domain.placement import can_ever_place
from dstack.engine.catalog import Catalog
from dstack.engine.leases import Leases
from dstack.engine.lifecycles import check_move
from dstack.engine.reconciler import Reconciler
from dstack.engine.scheduler import ARRIVAL, Scheduler
from dstack.kit.clock import Clock, SystemClock
from dstack.kit.ids import RandomIds
from dstack.kit.signals import Signals
from dstack.kit.vault import Vault
from dstack.logs.files import LogFiles
from dstack.operations import planning
from dstack.operations.context import Context
from dstack.protocol.agent import Gpu, HostResources
from dstack.protocol.requests import SubmitRun
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.store import commits
from dstack.store.db import Database
from dstack.store.sqlite import Sqlite
from dstack.store.tables import projects, users
from dstack.store.tx import Tx
from dstack.store.users import User

OFFERS, KINDS, REGIONS = 50_000, 1_500, 17
INSTANCES, JOBS, DEMANDS = 1_000, 10_000, 200
ROUNDS = 31
AT_ONCE = 500
GIB = 1024
BACKENDS = ("aws", "azure", "gcp")
CARDS = [
    Gpu("nvidia", name, memory * GIB, capability)
    for name, memory, capability in (
        ("T4", 16, "7.5"),
        ("A10G", 24, "8.6"),
        ("L4", 24, "8.9"),
        ("A100", 80, "8.0"),
        ("H100", 80, "9.0"),
    )
]
ADA = User("0-user", "ada", is_admin=True)


def offers_of_clouds(number: int = OFFERS) -> list[Offer]:
    """Return offers as clouds have them. Accounts have no quota for machines with cards."""
    return list(itertools.islice(_offers(), number))


def _offers() -> Iterator[Offer]:
    kinds = [(BACKENDS[n % 3], f"type-{n}", _resources_of(n)) for n in range(KINDS)]
    for region, spot in itertools.product(range(REGIONS), (False, True)):
        for backend, name, resources in kinds:
            price = (resources.cpus * 0.04 + len(resources.gpus) * 2.5) * (1 + region / 100) * (0.3 if spot else 1)
            most = 0 if resources.gpus else None
            yield Offer(backend, f"region-{region}", name, resources, round(price, 4), spot, machines_max=most)


def _resources_of(number: int) -> HostResources:
    cpus = (2, 4, 8, 16, 32, 48, 64, 96)[number % 8]
    memory_mib = cpus * (2, 4, 8)[number // 8 % 3] * GIB
    card = CARDS[number // 24 % len(CARDS)]
    gpus = (card,) * (1, 2, 4, 8)[number // 7 % 4] if number % 4 == 0 else ()
    return HostResources(
        cpus, memory_mib, (200 + number % 40 * 50) * GIB, gpus, arch="arm" if number % 10 == 9 else "x86"
    )


def demand_of(number: int) -> Demand:
    """Return requirements for which there is no quota: each of 200 numbers has others."""
    card, count, size = CARDS[number % 5], (1, 2, 4, 8)[number // 5 % 4], number % DEMANDS // 20
    return Demand(
        cpus=Bounds(2, None, written=False),
        memory_mib=Bounds((4 + size) * GIB, None, written=True),
        disk_mib=Bounds(100 * GIB, None, written=False),
        gpu=GpuDemand(Bounds(count, None, written=True), names=(card.name,)),
    )


class Stall(Catalog):
    """A catalog with a fixed market."""

    def __init__(self, clock: Clock, on_sale: Market) -> None:
        super().__init__(BackendRegistry({}), clock, RandomIds(clock))
        self.on_sale = on_sale

    def snapshot(self) -> Market:
        """Return the market."""
        return self.on_sale

    async def market(self) -> Market:
        """Return the market."""
        return self.on_sale


def measure_placement() -> list[Figure]:
    """Measure all four bounds."""
    tracemalloc.start()
    offers = offers_of_clouds()
    market = Market.of(offers, version=2)
    for number in range(DEMANDS):
        market.fitting(demand_of(number))
    memory_mib = tracemalloc.get_traced_memory()[0] / (1 << 20)
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_in_world(Path(folder), offers, market))
    return [*found, Figure("placement_market_memory", memory_mib, "MiB", Goal(100, "MiB"))]


async def _in_world(folder: Path, offers: list[Offer], market: Market) -> list[Figure]:
    clock = SystemClock()
    db = Database(Sqlite(folder / "bench.db"), clock)
    db.open()
    await _fill(db, clock, offers)
    few = Market.of([offers[1]], version=1)

    def context_of(on_sale: Market) -> Context:
        ids, backends = RandomIds(clock), BackendRegistry({})
        catalog = Stall(clock, on_sale)
        reconciler = Reconciler(db, backends, clock, Leases(db, clock, "0-server", "here", alone=True))
        parts = (backends, Drivers(folder), LogFiles(folder / "logs"), BlobFiles(folder / "blobs"))
        return Context(db, ids, catalog, reconciler, lambda run_id: None, *parts, Signals(), Vault([]))

    loop_ms = _median_ms([_loop_s(offers) for _ in range(ROUNDS)])
    submit_ms, pass_ms = await db.recall(lambda tx: _of_writer(tx, clock, market, few))
    plan_ms = await _of_plan(context_of(market), context_of(few))
    await db.close()
    return [
        Figure("placement_submit_added", submit_ms, "ms", Goal(0.1, "x"), loop_ms),
        Figure("placement_plan_added", plan_ms, "ms", Goal(0.5, "x"), loop_ms),
        Figure("placement_pass_200_waiting", pass_ms, "ms", Goal(2, "x"), loop_ms),
    ]


def _loop_s(offers: list[Offer]) -> float:
    """Return the seconds of the least that a scan of all offers does."""
    price, cpus, found = 2.0, 8, 0
    started = time.thread_time()
    for offer in offers:
        if offer.price <= price and offer.resources.cpus >= cpus:
            found += 1
    assert found
    return time.thread_time() - started


def _of_writer(tx: Tx, clock: Clock, market: Market, few: Market) -> tuple[float, float]:
    """Return what the offers add to a submit, and the time of a pass, in milliseconds.

    All jobs wait, so a pass changes nothing and can be repeated.
    """
    scheduler = Scheduler(RandomIds(clock), timedelta(hours=1))
    submitted = _job(INSTANCES + JOBS, clock.now(), replace(demand_of(0), gpu=None))

    def timed(on_sale: Market) -> tuple[float, float]:
        started = time.thread_time()
        scheduler.look(tx, on_sale, check_move, {})
        passed = time.thread_time()
        assert can_ever_place([submitted], on_sale)
        scheduler.look(tx, on_sale, check_move, {}, ARRIVAL)
        return time.thread_time() - passed, passed - started

    rounds = [(timed(market), timed(few)) for _ in range(3 * ROUNDS + 1)][1:]
    assert all(scheduler.why_waiting(f"{number:05}-run") for number in range(INSTANCES, INSTANCES + JOBS))
    added_ms = _median_ms([many[0] for many, _ in rounds]) - _median_ms([one[0] for _, one in rounds])
    return added_ms, _median_ms([many[1] for many, _ in rounds])


async def _of_plan(many: Context, one: Context) -> float:
    """Return what the offers add to a plan with other requirements each time, in milliseconds."""

    async def timed(context: Context, number: int) -> float:
        resources = {"cpu": f"{number % 3 + 1}..", "memory": f"{3 * GIB + number}MB..", "disk": "100GB.."}
        configuration = {"type": "task", "commands": ["true"], "priority": 100, "resources": resources}
        request = SubmitRun(configuration=configuration)
        started = time.process_time()
        found = await planning.plan(context, ADA, "main", request)
        took_s = time.process_time() - started
        assert context is one or len(found.offers) == 50 >= len(found.refusals) > 0
        return took_s

    rounds = [(await timed(many, number), await timed(one, number)) for number in range(ROUNDS + 1)][1:]
    return _median_ms([with_many - with_one for with_many, with_one in rounds])


def _median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


async def _fill(db: Database, clock: Clock, offers: list[Offer]) -> None:
    """Make the machines with their jobs, and the queue."""
    now = clock.now()
    bought = [offer for offer in offers if offer.machines_max is None][:: OFFERS // 100]

    def people(tx: Tx) -> None:
        tx.change(insert(users).values(id="0-user", name="ada", is_admin=True, token_hash="x", created_at=now))
        tx.change(insert(projects).values(id="0-project", name="main", created_at=now))

    def fill(tx: Tx, start: int) -> None:
        for number in range(start, start + AT_ONCE):
            if number < INSTANCES:
                offer = bought[number % len(bought)]
                machine = Instance(
                    id=f"{number:05}-instance",
                    project_id="0-project",
                    offer=offer,
                    status=InstanceStatus.BUSY,
                    status_since=now,
                    created_at=now,
                    idle_duration=timedelta(minutes=5),
                    agent_seen_at=now,
                )
                commits.commit(tx, Next((machine,)), check_move)
            commits.add_run(tx, _run(number, now), [_job(number, now)], actor="user ada")
        tx.wakes.clear()

    await db.write(people)
    for start in range(0, INSTANCES + JOBS, AT_ONCE):
        await db.write(partial(fill, start=start))


def _run(number: int, now: datetime) -> Run:
    return Run(
        id=f"{number:05}-run",
        project_id="0-project",
        user_id="0-user",
        name=f"run-{number}",
        type="task",
        status=RunStatus.RUNNING if number < INSTANCES else RunStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        spec={"configuration": {"type": "task", "commands": ["true"]}},
        version=1,
    )


def _job(number: int, now: datetime, demand: Demand | None = None) -> Job:
    """Return a job: the first ones have a machine, and the others wait."""
    runs = number < INSTANCES
    return Job(
        id=f"{number:05}-job",
        run_id=f"{number:05}-run",
        project_id="0-project",
        replica=0,
        node=0,
        nodes=1,
        attempt=1,
        status=JobStatus.RUNNING if runs else JobStatus.SUBMITTED,
        status_since=now,
        submitted_at=now,
        demand=demand or demand_of(number),
        stop_grace_s=10.0,
        instance_id=f"{number:05}-instance" if runs else None,
        share=Share(2, 8 * GIB) if runs else Share(),
        version=0,
    )
