"""A server takes over a database and agents with live jobs, as an earlier version has left them."""

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dstack.domain.offers import Offer
from dstack.kit.plain import from_plain
from dstack.protocol.agent import HostResources, JobReport, order_of
from dstack.store.schema import prepare_schema
from dstack.store.sqlite import Sqlite
from dstack.testing.behaviours import Behaviour
from dstack.testing.databases import note_statuses
from dstack.testing.faults import Faults
from dstack.testing.hosts import Host, HostJob
from dstack.testing.markets import markets_of
from dstack.testing.time import START, VirtualLoop
from dstack.testing.world import SeededIds, World, make_world, world_folder
from tests.recorded import loading

LIVE = ("editor", "gang", "running", "stopped", "web")
LEFT_S = 3600.0
"""The time that a job that was live still takes."""


@pytest.mark.parametrize("schema", loading.SCHEMAS)
def test_live_jobs_of_an_earlier_version_end_without_a_restart(schema: str) -> None:
    with world_folder() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(live_on(schema, folder))


async def live_on(schema: str, folder: Path) -> None:
    """Start today's server on the record, let everything end, and look for jobs that were started twice."""
    outside = loading.outside(schema)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.skip((loading.time_of(schema) - START).total_seconds())
    world = await make_world(folder, markets_of(["local", "aws"]), Faults(), random.Random(1))
    world._ids = LaterIds(world.nature.chance)
    take_over(schema, folder)
    world.watch.database_was_replaced()
    for host in outside["hosts"]:
        bring_up(world, host)
    attempts = {job.id for job in world.watch.ledger.jobs()}
    for name in ("queued", "retrying"):
        world.nature.behaviours.set(name, Behaviour())
    background = world.start()
    runs = {name: id for id, (name, *_) in world.watch.ledger.runs().items()}
    async with asyncio.timeout(10 * LEFT_S):
        for name in (*LIVE, "queued", "retrying"):
            while (status := world.watch.ledger.run_status(runs[name])) is None or not status.is_finished():
                await world.watch.next_move()
    ended = {name: world.watch.ledger.run_status(runs[name]) for name in (*LIVE, "queued", "retrying")}
    later = [job for job in world.watch.ledger.jobs() if job.id not in attempts]
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    world.close()
    assert [str(one) for one in world.watch.violations] == []
    assert ended == dict.fromkeys(ended, "done")
    assert [(job.run_name, job.attempt) for job in later] == [("retrying", 2)]


class LaterIds(SeededIds):
    """Ids after all that are on record."""

    def new_id(self) -> str:
        return f"1{super().new_id()}"


def take_over(schema: str, folder: Path) -> None:
    """Put the recorded database, migrated, in place of the world's own."""
    loading.write_logs(schema, folder / "logs")
    path = folder / "recorded.db"
    loading.write_sqlite(schema, path)
    dialect = Sqlite(path)
    prepare_schema(dialect)
    dialect.engine.dispose()
    note_statuses(path)
    one, other = sqlite3.connect(path), sqlite3.connect(folder / "server.db")
    one.backup(other)
    one.close()
    other.close()


def bring_up(world: World, recorded: dict[str, Any]) -> None:
    """Make a machine with its jobs as its agent knows them."""
    fields = {name: value for name, value in recorded["offer"].items() if name != "shared"}
    offer = Offer(**{**fields, "resources": from_plain(HostResources, recorded["offer"]["resources"])})
    cloud = world.clouds[recorded["cloud"]]
    host = Host(recorded["key"], offer, 0.0, world.nature)
    cloud.take_in(host)
    for one in recorded["jobs"]:
        order, report = order_of(one["order"]), from_plain(JobReport, one["report"])
        job = host.jobs[order.job_id] = HostJob(order, report, one["log"].encode())
        if job.is_running:
            world.watch.job_started(host.key, order)
            host._set_timer(job, LEFT_S, host._end, job, "exited", 0)
