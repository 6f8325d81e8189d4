"""Machines that nobody knows: seen by `dstack audit`, ended by the server."""

import asyncio
import json
import re
import sqlite3
from datetime import timedelta

import pytest

from dstack.backends.local import Local
from dstack.backends.registry import BackendRegistry
from dstack.engine.leases import Leases
from dstack.engine.reconciler import Reconciler
from dstack.store import events
from dstack.store.db import Database
from dstack.store.sqlite import Sqlite
from tests.e2e.home import Home, wait_for
from tests.making import HandClock
from tests.patience import PATIENCE_S

SLEEPER = "type: task\nname: sleeper\ncommands: [sleep 1000]\n"


@pytest.fixture
def orphan(home: Home) -> str:
    """A machine with a living agent and a running job, of which the record knows nothing any more."""
    home.write("sleeper.dstack.yml", SLEEPER)
    assert home.cli("apply", "-f", "sleeper.dstack.yml", "-y", "-d").returncode == 0
    wait_for("the job to run", lambda: home.runs()[0]["status"] == "running")
    home.kill_server()
    with sqlite3.connect(home.data / "server.db") as conn:
        for table in ("wakes", "intents", "jobs", "instances", "runs", "events"):
            conn.execute(f"DELETE FROM {table}")
    conn.close()
    [machine] = home.machines()
    return machine.root.name


def test_an_audit_of_a_healthy_server_says_who_claims_what(home: Home) -> None:
    assert home.cli("audit").stdout == "0 machines\n"
    home.write("sleeper.dstack.yml", SLEEPER)
    assert home.cli("apply", "-f", "sleeper.dstack.yml", "-y", "-d").returncode == 0
    wait_for("the job to run", lambda: home.runs()[0]["status"] == "running")
    result = home.cli("audit")
    assert result.returncode == 0
    header, line, last = result.stdout.splitlines()
    assert header.split() == ["BACKEND", "MACHINE", "INSTANCE", "PRICE", "STATE", "DETAIL"]
    assert re.fullmatch(r"local +\S+ +\S+ +\$0 +claimed +busy: sleeper", line)
    assert last == "1 machine: 1 claimed"
    assert json.loads(home.cli("audit", "--json").stdout)["machines"][0]["state"] == "claimed"


async def test_a_machine_that_nobody_knows_is_ended_with_all_that_runs_on_it(home: Home, orphan: str) -> None:
    assert home.processes_of_jobs()
    clock = HandClock()
    db = Database(Sqlite(home.path / "empty.db"), clock)
    db.open()
    leases = Leases(db, clock, "0-server", "here", alone=True)
    await leases.start()
    reconciler = Reconciler(db, BackendRegistry({"local": Local(home.data)}), clock, leases)

    async def is_gone() -> bool:
        await reconciler._look_and_act("local")
        clock.time += timedelta(seconds=70)
        return not (home.data / "machines" / orphan).exists()

    async with asyncio.timeout(PATIENCE_S):
        while not await is_gone():  # noqa: ASYNC110 - from outside there is nothing to wait for
            await asyncio.sleep(0.1)
    lines = await db.read(lambda tx: events.list_after(tx, "", 0, run_id=None, limit=10, shared=True))
    assert [line.kind for line in lines] == ["machine.orphan_ended"]
    await db.close()
    wait_for("the end of all processes", lambda: home.processes_of_jobs() == [] and home.agent_pid() is None)
