"""What the hands of the engine do where a host is away, gone, or says no."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import insert

from dstack.blobs.files import BlobFiles
from dstack.domain.intents import Done, StartJob, StopJob
from dstack.domain.objects import Next
from dstack.engine.effects import Effects
from dstack.engine.inbox import EngineInbox
from dstack.engine.links import Links
from dstack.engine.loop import check_move
from dstack.engine.outbox import Outbox
from dstack.errors import AgentRefused, BackendError, BackendUnavailable, HostUnreachable, ServerError
from dstack.hosts.link import Inbox, Link, Welcome
from dstack.kit.clock import SystemClock
from dstack.kit.signals import Signals
from dstack.logs.files import LogFiles
from dstack.protocol.agent import HostResources, JobReport
from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus
from dstack.store import commits, intents, objects
from dstack.store.db import Database
from dstack.store.sqlite import Sqlite
from dstack.store.tables import projects, users
from dstack.store.tx import Open, Tx
from tests.making import NOW, HandClock, ended, instance, placed_job, report, run

START = StartJob("0-job", "0-instance")
STOP = StopJob("0-job", "0-instance", 1.0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def db(tmp_path: Path, clock: HandClock) -> AsyncIterator[Database]:
    def people(tx: Tx) -> None:
        tx.change(insert(users).values(id="0-user", name="ada", is_admin=False, token_hash="x", created_at=NOW))
        tx.change(insert(projects).values(id="0-project", name="main", created_at=NOW))

    database = Database(Sqlite(tmp_path / "test.db"), clock)
    database.open()
    await database.write(people)
    yield database
    await database.close()


async def record(db: Database, machine: dict[str, Any], job: dict[str, Any]) -> None:
    """An instance with a job on it."""

    def write(tx: Tx) -> None:
        commits.commit(tx, Next((instance(version=0, **machine),)), check_move)
        commits.add_run(tx, run(), [placed_job(version=0, **job)], actor="user ada")

    await db.write(write)


class RefusingLink:
    async def call(self, kind: str, body: object) -> None:
        raise AgentRefused("The disk is full")


class FoundLinks:
    """Links as a test wants them found."""

    def __init__(self, link: RefusingLink | None) -> None:
        self._link = link

    def find(self, instance_id: str) -> Link | None:
        return cast(Link | None, self._link)


def effects_with(db: Database, link: RefusingLink | None = None) -> Effects:
    return Effects(db, {}, cast(Links, FoundLinks(link)))


async def test_a_start_is_tried_again_while_the_machine_is_away_and_fails_once_it_is_gone(db: Database) -> None:
    await record(db, {}, {})
    with pytest.raises(HostUnreachable):
        await effects_with(db).perform(START)
    gone = instance(status=InstanceStatus.TERMINATED, finished_at=NOW)
    await db.write(lambda tx: commits.record(tx, gone))
    with pytest.raises(BackendError, match="is gone") as caught:
        await effects_with(db).perform(START)
    assert not caught.value.retryable
    assert await effects_with(db).perform(STOP) == Done({}), "what the machine had is gone with it"


async def test_a_stop_that_is_refused_is_asked_for_again_less_and_less_often(db: Database) -> None:
    await record(db, {}, {})
    with pytest.raises(BackendUnavailable, match="The disk is full") as caught:
        await effects_with(db, RefusingLink()).perform(STOP)
    assert caught.value.retryable


async def test_what_could_not_be_recorded_is_performed_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await record(db, {"status": InstanceStatus.TERMINATED, "finished_at": NOW}, {})
    await db.write(lambda tx: intents.add(tx, STOP))
    outbox = Outbox(db, effects_with(db), SystemClock())
    failures = [ServerError("The database is behind")]
    real = db.write

    async def write(function: Any) -> Any:
        if failures:
            raise failures.pop()
        return await real(function)

    monkeypatch.setattr(db, "write", write)
    await outbox.start()
    async with asyncio.timeout(20):
        while await db.read(intents.list_open):
            pass
    await outbox.close()
    assert not failures


def inbox_of(db: Database, folder: Path) -> EngineInbox:
    return EngineInbox(db, LogFiles(folder / "logs"), BlobFiles(folder / "blobs"), Signals())


def welcome(*reports: JobReport) -> Welcome:
    return Welcome(HostResources(1, 1, 1), None, None, reports)


async def test_logs_are_wanted_of_jobs_on_record_and_of_no_others(db: Database, tmp_path: Path) -> None:
    await record(db, {}, {"status": JobStatus.RUNNING})
    wanted = await inbox_of(db, tmp_path).welcomed("0-instance", welcome(report(), report(job_id="0-deleted")))
    assert wanted == {("0-job", "job"): 0, ("0-job", "agent"): 0}


async def test_the_wait_for_the_last_log_bytes_begins_anew_when_the_link_is_up_again(
    db: Database, tmp_path: Path, clock: HandClock
) -> None:
    last = ended(logged=False)
    await record(db, {}, {"status": JobStatus.TERMINATING, "reason": JobReason.EXITED, "report": last})
    await db.write(lambda tx: intents.add(tx, START))
    [started] = await db.read(intents.list_open)
    await db.write(lambda tx: intents.record(tx, Open(started.position, START), Done({})))
    clock.time = NOW + timedelta(hours=8)
    await inbox_of(db, tmp_path).welcomed("0-instance", welcome(last))
    job = await db.read(lambda tx: objects.find_job(tx, "0-job"))
    assert job is not None and job.status_since == clock.time


async def test_the_silence_of_a_machine_counts_from_the_start_of_the_server(
    db: Database, tmp_path: Path, clock: HandClock
) -> None:
    await record(db, {"unreachable_since": NOW}, {})
    clock.time = NOW + timedelta(hours=8)

    class Nowhere:
        async def connect(self) -> Any:
            raise HostUnreachable("The host does not answer")

    links = Links(db, cast(Inbox, inbox_of(db, tmp_path)), SystemClock(), lambda of: Nowhere())
    await links.start()
    await links.close()
    machine = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert machine is not None and machine.unreachable_since == clock.time
