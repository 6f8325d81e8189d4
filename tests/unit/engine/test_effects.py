"""What the hands of the engine do where a host is away, gone, or says no."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from dstack.backends.registry import BackendRegistry
from dstack.blobs.files import BlobFiles
from dstack.domain.intents import Done, Failed, LaunchMachine, StartJob, StopJob
from dstack.domain.objects import Instance, Next
from dstack.engine import outbox as outboxes
from dstack.engine.effects import Effects
from dstack.engine.inbox import EngineInbox
from dstack.engine.leases import Leases
from dstack.engine.lifecycles import check_move
from dstack.engine.links import Links
from dstack.engine.measurements import Measurements
from dstack.engine.outbox import UNKNOWN_ERRORS_MAX, Outbox
from dstack.errors import AgentRefused, BackendError, BackendUnavailable, DatabaseUnavailable, HostUnreachable
from dstack.hosts.inbox import Disowning, Inbox, Welcome
from dstack.hosts.link import Link
from dstack.kit.clock import SystemClock
from dstack.kit.signals import Signals
from dstack.kit.text import utc_text
from dstack.kit.vault import Vault
from dstack.logs.bounded import BOUNDS, BoundedLogs
from dstack.logs.files import LogFiles
from dstack.operations.presenting import brief_view
from dstack.protocol.agent import Gpu, HostResources, JobReport
from dstack.protocol.files import hash_of
from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus
from dstack.store import commits, intents, objects
from dstack.store.db import Database
from dstack.store.notices import Open
from dstack.store.tx import Tx
from dstack.testing.world import TEST_KEY
from tests.making import HERE, NOW, HandClock, at_once, ended, instance, placed_job, report, run
from tests.patience import PATIENCE_S

START = StartJob("0-job", "0-instance")
STOP = StopJob("0-job", "0-instance", 1.0)


@pytest.fixture
def leases(db: Database) -> Leases:
    return Leases(db, SystemClock(), "0-server", "here", alone=True)


@pytest.fixture
async def inbox(db: Database, leases: Leases, tmp_path: Path) -> EngineInbox:
    await leases.start()
    logs, blobs = BoundedLogs(LogFiles(tmp_path / "logs"), BOUNDS), BlobFiles(tmp_path / "blobs")
    return EngineInbox(db, leases, logs, blobs, Signals(), Measurements(db, SystemClock()))


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
    return Effects(db, BackendRegistry({}), cast(Links, FoundLinks(link)), Vault([TEST_KEY]))


async def test_a_start_is_tried_again_while_the_machine_is_away_and_fails_once_it_is_gone(db: Database) -> None:
    await record(db, {}, {})
    with pytest.raises(HostUnreachable):
        await effects_with(db).perform(START)
    gone = instance(status=InstanceStatus.TERMINATED, finished_at=NOW)
    await db.write(lambda tx: commits.record(tx, gone))
    with pytest.raises(BackendError, match="no longer exists") as caught:
        await effects_with(db).perform(START)
    assert not caught.value.retryable
    assert await effects_with(db).perform(STOP) == Done({}), "what the machine had is gone with it"


async def test_a_stop_that_is_refused_is_asked_for_again_less_and_less_often(db: Database) -> None:
    await record(db, {}, {})
    with pytest.raises(BackendUnavailable, match="The disk is full") as caught:
        await effects_with(db, RefusingLink()).perform(STOP)
    assert caught.value.retryable


async def test_what_could_not_be_recorded_is_performed_again(
    db: Database, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record(db, {"status": InstanceStatus.TERMINATED, "finished_at": NOW}, {})
    outbox = Outbox(db, effects_with(db), SystemClock(), leases)
    failures = [DatabaseUnavailable("The database is behind")]
    real = db.write

    async def write(function: Any) -> Any:
        if failures:
            raise failures.pop()
        return await real(function)

    outbox.start()
    await leases.start()
    await db.write(lambda tx: intents.add(tx, STOP))
    monkeypatch.setattr(db, "write", write)
    async with asyncio.timeout(PATIENCE_S):
        while await db.read(intents.list_open):
            pass
    await outbox.close()
    assert not failures


@pytest.mark.parametrize(("errors", "is_done"), [(UNKNOWN_ERRORS_MAX - 1, True), (1000, False)])
async def test_error_of_no_known_kind_is_retried_some_times_before_it_is_final(
    db: Database, leases: Leases, monkeypatch: pytest.MonkeyPatch, errors: int, is_done: bool
) -> None:
    await record(db, {}, {})
    tries = 0

    async def perform(effects: Effects, intent: Any) -> Done:
        nonlocal tries
        tries += 1
        if tries <= errors:
            raise KeyError("changed meanwhile")
        return Done({})

    clock = HandClock()
    monkeypatch.setattr(Effects, "perform", perform)
    outbox = Outbox(db, effects_with(db), clock, leases)
    outbox.start()
    await leases.start()
    await db.write(lambda tx: intents.add(tx, STOP))
    async with asyncio.timeout(PATIENCE_S):
        while await db.read(intents.list_open):
            pass
    await outbox.close()
    outcome = (await db.read(lambda tx: intents.outcomes_of(tx, "job", "0-job")))[StopJob]
    assert tries == UNKNOWN_ERRORS_MAX
    assert (outcome == Done({})) is is_done and isinstance(outcome, Failed) is not is_done
    assert clock.time - NOW == outboxes.FIRST_RETRY * (2 ** (UNKNOWN_ERRORS_MAX - 1) - 1), "after growing pauses"


def welcome(*reports: JobReport) -> Welcome:
    return Welcome(HostResources(1, 1, 1), None, None, reports)


async def test_logs_are_wanted_of_jobs_on_record_and_of_no_others(db: Database, inbox: EngineInbox) -> None:
    await record(db, {}, {"status": JobStatus.RUNNING})
    wanted, _ = await inbox.welcomed("0-instance", welcome(report(), report(job_id="0-deleted")))
    assert wanted == {("0-job", "job"): 0, ("0-job", "agent"): 0}


async def test_a_job_that_is_not_on_record_is_stopped_where_it_runs_and_forgotten_once_it_has_ended(
    db: Database, inbox: EngineInbox
) -> None:
    await record(db, {}, {"status": JobStatus.RUNNING})
    unknown = {"job_id": "0-unknown"}
    _, strangers = await inbox.welcomed("0-instance", welcome(report(), report(**unknown)))
    assert strangers == {"0-unknown": Disowning.STOP}
    assert await inbox.reported("0-instance", [ended(**unknown)]) == {"0-unknown": Disowning.FORGET}
    assert await db.read(intents.list_open) == [], "a job of this id may run elsewhere, where nothing waits for this"


async def test_a_launch_that_waits_says_why_on_its_instance(
    db: Database, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = instance(version=0, status=InstanceStatus.PENDING, machine_id=None, address=None, agent_seen_at=None)
    await db.write(lambda tx: commits.commit(tx, Next((pending,)), check_move))

    async def perform(effects: Effects, intent: Any) -> Done:
        raise BackendUnavailable("this machine is cleaned up first")

    monkeypatch.setattr(Effects, "perform", perform)
    outbox = Outbox(db, effects_with(db), SystemClock(), leases)
    outbox.start()
    await leases.start()
    await db.write(lambda tx: intents.add(tx, LaunchMachine("0-instance")))

    async def detail() -> str:
        found = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
        assert found is not None
        return found.detail

    async with asyncio.timeout(20):
        while await detail() != "this machine is cleaned up first":
            pass
    await outbox.close()


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (
            {"status": InstanceStatus.PROVISIONING, "agent_seen_at": None},
            "waits for its machine: its agent does not start",
        ),
        ({"unreachable_since": NOW}, f"not answered since {utc_text(NOW)} (its agent does not start)"),
    ],
)
async def test_agent_that_does_not_start_is_shown_until_it_answers(
    db: Database, inbox: EngineInbox, fields: dict[str, Any], shown: str
) -> None:
    heard: set[str] = set()
    await record(db, fields, {})
    db.listen(lambda notices: heard.update(notices.changed))
    await inbox.not_started("0-instance", "its agent does not start")
    one = run()

    def detail(tx: Tx) -> str:
        return brief_view(tx, one).detail

    assert (await db.read(detail)).endswith(shown) and heard == {one.id}
    await inbox.welcomed("0-instance", welcome())
    assert await db.read(detail) == ""


async def test_why_jobs_do_not_start_outlives_a_break_of_the_link(db: Database, inbox: EngineInbox) -> None:
    await record(db, {"failed_starts": 1, "detail": "no room"}, {})
    await inbox.welcomed("0-instance", welcome())
    machine = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert machine is not None and machine.detail == "no room"


async def test_host_is_kept_beside_the_offer_and_jobs_get_the_cards_that_its_agent_reports(
    db: Database, inbox: EngineInbox
) -> None:
    cards = (Gpu("nvidia", "A100", 40960, gone=True), Gpu("nvidia", "T4", 15360))
    await record(db, {}, {"status": JobStatus.RUNNING})
    await inbox.welcomed("0-instance", Welcome(HostResources(1, 1, 1, cards), None, None, ()))
    instance = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert instance is not None and instance.offer == HERE and instance.host == HostResources(1, 1, 1, cards)
    assert instance.offer_as_found.resources == replace(HERE.resources, gpus=cards)


async def test_the_wait_for_the_last_log_bytes_begins_anew_when_the_link_is_up_again(
    db: Database, inbox: EngineInbox, clock: HandClock
) -> None:
    last = ended(logged=False)
    await record(db, {}, {"status": JobStatus.TERMINATING, "reason": JobReason.EXITED, "report": last})
    await db.write(lambda tx: intents.add(tx, START))
    [started] = await db.read(intents.list_open)
    await db.write(lambda tx: intents.record(tx, Open(started.position, START), Done({})))
    clock.time = NOW + timedelta(hours=8)
    await inbox.welcomed("0-instance", welcome(last))
    job = await db.read(lambda tx: objects.find_job(tx, "0-job"))
    assert job is not None and job.status_since == clock.time


async def test_the_silence_of_a_machine_counts_from_the_start_of_the_server(
    db: Database, leases: Leases, clock: HandClock
) -> None:
    await record(db, {"unreachable_since": NOW}, {})
    clock.time = NOW + timedelta(hours=8)

    class Nowhere:
        async def connect(self) -> Any:
            raise HostUnreachable("The host does not answer")

    class Deaf:
        async def disconnected(self, instance_id: str) -> None:
            """Nobody listens."""

    def link_to(machine: Instance, epoch: int) -> Link:
        return Link(machine.id, Nowhere(), cast(Inbox, Deaf()), SystemClock(), epoch, at_once())

    links = Links(db, SystemClock(), leases, link_to)
    links.start()
    await leases.start()
    await links.close()
    machine = await db.read(lambda tx: objects.find_instance(tx, "0-instance"))
    assert machine is not None and machine.unreachable_since == clock.time


async def test_agent_gets_the_files_of_projects_with_a_job_on_its_machine_alone(
    db: Database, inbox: EngineInbox, tmp_path: Path
) -> None:
    await record(db, {}, {})
    blobs = BlobFiles(tmp_path / "blobs")
    for owner, blob in (("0-project", b"own"), ("1-project", b"foreign")):
        blobs.put(owner, hash_of(blob), blob)
    found = [
        await inbox.blob(instance, hash_of(blob))
        for instance, blob in (("0-instance", b"own"), ("0-instance", b"foreign"), ("1-instance", b"own"))
    ]
    assert found == [b"own", None, None]
