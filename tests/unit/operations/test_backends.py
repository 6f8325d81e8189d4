"""Backends are added, changed, checked and removed; credentials go nowhere, and no machine is left behind."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from dstack.backends import Drivers
from dstack.backends.base import Backend
from dstack.domain.machines import Address
from dstack.domain.market import Market
from dstack.domain.objects import Instance, Next
from dstack.engine.backends import BackendFollower
from dstack.engine.lifecycles import check_move
from dstack.engine.scheduler import Scheduler
from dstack.errors import (
    BackendInvalidCredentialsError,
    BackendUnavailable,
    ForbiddenError,
    InvalidRequestError,
    ResourceExistsError,
    ResourceNotExistsError,
)
from dstack.kit.vault import Vault, new_key
from dstack.operations import backends, projects
from dstack.operations.backend_rows import Configured, Wanted, add_missing
from dstack.operations.context import Context
from dstack.protocol.actions import Role
from dstack.protocol.backends import BackendView
from dstack.protocol.statuses import InstanceReason, InstanceStatus, JobReason, JobStatus
from dstack.store import backends as rows
from dstack.store import commits, events, objects, users
from dstack.store.backends import CERTAIN_AFTER
from dstack.store.tables import backends as table
from dstack.store.tx import Tx
from dstack.store.users import User
from tests.making import CLOUD, HandClock, instance, job, run
from tests.vapor import GOOD, OFFER, TYPE, Vapor, config_of, drivers_in

ADMIN = User(id="0-user", name="ada", is_admin=True)
MEMBER = User(id="1-user", name="bob", is_admin=False)
PROJECT = "main"


@pytest.fixture(autouse=True)
def cloud() -> Iterator[type[Vapor]]:
    Vapor.may_answer.set()
    Vapor.machines.clear()
    yield Vapor


@pytest.fixture
async def at(context: Context, tmp_path: Path) -> AsyncIterator[Context]:
    """The operations of a server with the driver of tests, with a project admin that is no admin of the server."""

    def people(tx: Tx) -> None:
        users.set_admin(tx, ADMIN.id, is_admin=True)
        users.add_user(tx, MEMBER.id, MEMBER.name, is_admin=False)
        users.put_member(tx, "0-project", MEMBER.id, Role.ADMIN.value)

    await context.db.write(people)
    context = replace(context, drivers=drivers_in(tmp_path))
    context.db.listen(lambda notices: context.signals.notify(notices.changed))
    yield context
    await context.backends.close()


def follower_of(at: Context, clock: HandClock, vault: Vault | None = None) -> BackendFollower:
    return BackendFollower(at.db, at.backends, at.drivers, vault or at.vault, at.signals, clock)


async def add(at: Context, clock: HandClock, name: str = "mine", project: str | None = PROJECT) -> BackendView:
    added = await backends.put(at, ADMIN, project, name, config_of())
    await follower_of(at, clock).load()
    return added


async def id_of(at: Context, name: str) -> str:
    return next(one.id for one in await at.db.read(rows.every) if one.name == name)


async def buy(at: Context, backend_id: str, **fields: object) -> Instance:
    """An instance of a backend, as placement makes it."""
    offer = replace(OFFER, backend_id=backend_id)
    born = instance(**{"id": "1-machine", "offer": offer, "status": InstanceStatus.BUSY, "version": 0, **fields})

    def write(tx: Tx) -> None:
        commits.commit(tx, Next((born,)), check_move)

    await at.db.write(write)
    return born


def end(tx: Tx) -> None:
    """Move the instance of `buy` along its lifecycle to its end."""
    for status in (InstanceStatus.IDLE, InstanceStatus.TERMINATING, InstanceStatus.TERMINATED):
        one = objects.find_instance(tx, "1-machine")
        assert one is not None
        finished = tx.clock.now() if status is InstanceStatus.TERMINATED else None
        commits.commit(tx, Next((replace(one, status=status, finished_at=finished),)), check_move)


async def found(at: Context, id: str = "1-machine") -> Instance:
    one = await at.db.read(lambda tx: objects.find_instance(tx, id))
    assert one is not None
    return one


async def test_added_backend_is_called_and_offered_to_its_project(at: Context, clock: HandClock) -> None:
    added = await add(at, clock)
    assert (added.name, added.type, added.project, added.machines) == ("mine", "vultr", "main", 0)
    (id,) = at.backends
    (offer,) = await at.backends.offers(id, timeout_s=5)
    assert (offer.backend, offer.backend_id, offer.backend_name, offer.project_id) == (
        *("vultr", id, "mine", "0-project"),
    )
    assert [one.name for one in (await backends.list_for(at, MEMBER, PROJECT)).backends] == ["mine"]


async def test_drivers_are_imported_beside_the_event_loop(at: Context, clock: HandClock, tmp_path: Path) -> None:
    importing: list[threading.Thread] = []

    def load(name: str) -> type[Backend]:
        importing.append(threading.current_thread())
        return Vapor

    at = replace(at, drivers=Drivers(tmp_path, load, lambda: [TYPE]))
    await add(at, clock)
    assert len(importing) > 2 and threading.current_thread() not in importing


async def test_credentials_are_ciphertext_and_in_no_view_event_or_log(
    at: Context, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    views = [await add(at, clock)]
    views += (await backends.list_for(at, ADMIN, PROJECT)).backends
    views += (await backends.list_for(at, ADMIN, None)).backends
    await backends.check(at, ADMIN, PROJECT, "mine")
    assert views[1].config == {"type": "vultr", "creds": {"type": "api_key", "api_key": "***"}}
    kept = await at.db.read(lambda tx: [dict(row._mapping) for row in tx.select(select(table))])
    lines = await at.db.read(lambda tx: events.list_after(tx, "0-project", 0, run_id=None, limit=100, shared=True))
    assert [one.message for one in lines] == ["ada added the backend mine (vultr)"]
    with pytest.raises(InvalidRequestError) as refused:
        await backends.put(at, ADMIN, PROJECT, "mine", {**config_of(), "creds": {"api_key": [GOOD]}})
    everything = repr((views, kept, lines, str(refused.value), caplog.text, Wanted(None, "x", config_of())))
    assert GOOD not in everything
    assert json.loads(at.vault.open(kept[0]["sealed"]))["creds"]["api_key"] == GOOD


async def test_configuration_is_shown_to_those_only_who_may_change_it(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    await add(at, clock, "everyones", None)
    shown = {one.name: one.config != {} for one in (await backends.list_for(at, MEMBER, PROJECT)).backends}
    assert shown == {"everyones": False, "mine": True}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "aws"}, "`type`: there is no driver for the backend `aws`; this version can add `vultr`"),
        ({"type": "local"}, "the backend `local` needs no configuration: the server has it by `DSTACK_LOCAL_BACKEND`"),
        ({"type": "vulltr"}, "`type`: there is no backend called `vulltr`; did you mean `vultr`?"),
        ({}, "expected a field `type` with the type of the backend"),
        ({**config_of(), "creds": {"type": "api_key"}}, "`creds.api_key`: expected a field `api_key`, found none"),
        ({**config_of(), "region": "eu"}, "`region`: unknown field `region`; did you mean `regions`?"),
    ],
)
async def test_mistake_in_a_configuration_is_refused_with_its_field(
    at: Context, config: dict[str, object], expected: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await backends.put(at, ADMIN, PROJECT, "mine", config)
    assert expected in refused.value.message
    assert [text for _, text in refused.value.mistakes if text.partition(";")[0] in expected or expected in text]
    assert await at.db.read(rows.every) == []


async def test_wrong_credentials_are_refused_with_their_field_and_nothing_is_stored(at: Context) -> None:
    with pytest.raises(BackendInvalidCredentialsError, match=r"`creds\.api_key`: the cloud does not know this key"):
        await backends.put(at, ADMIN, PROJECT, "mine", config_of("wrong"))
    Vapor.may_answer.clear()
    with pytest.raises(BackendUnavailable):
        await backends.put(at, ADMIN, PROJECT, "mine", config_of())
    assert await at.db.read(rows.every) == []


async def test_changed_credentials_keep_the_machines(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    id = await id_of(at, "mine")
    await buy(at, id)
    Vapor.machines.add("1-machine")
    changed = await backends.put(at, ADMIN, PROJECT, "mine", {**config_of(), "regions": ["eu", "us"]})
    assert (changed.config["regions"], changed.machines) == (["eu", "us"], 1)
    assert await id_of(at, "mine") == id
    assert (await found(at)).drain_asked_at is None
    with pytest.raises(InvalidRequestError):
        await backends.put(at, ADMIN, PROJECT, "mine", {"type": "aws"})


async def test_credentials_of_another_account_are_refused_while_machines_of_the_former_run(
    at: Context, clock: HandClock
) -> None:
    await add(at, clock)
    await buy(at, await id_of(at, "mine"))
    before = await at.db.read(rows.every)
    Vapor.machines = {"of another account"}
    with pytest.raises(InvalidRequestError, match="does not list the machines that run"):
        await backends.put(at, ADMIN, PROJECT, "mine", config_of())
    assert await at.db.read(rows.every) == before, "the end of a machine would be asked of an account without it"
    await at.db.write(end)
    await backends.put(at, ADMIN, PROJECT, "mine", config_of())


async def test_name_is_unique_among_the_backends_that_a_project_uses(at: Context, clock: HandClock) -> None:
    at.backends.add(rows.BackendRecord("vultr", "vultr", "vultr"), None, "it is not asked")
    await projects.create(at, ADMIN, "other")
    await add(at, clock, "mine")
    await add(at, clock, "mine", "other")
    await add(at, clock, "everyones", None)
    for name, project in (("mine", None), ("everyones", PROJECT), ("vultr", PROJECT)):
        with pytest.raises(ResourceExistsError):
            await backends.put(at, ADMIN, project, name, config_of())
    assert {one.name for one in (await backends.list_for(at, MEMBER, PROJECT)).backends} == {
        *("mine", "everyones", "vultr")
    }


async def test_backend_with_machines_is_not_deleted_and_they_are_listed(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    await buy(at, await id_of(at, "mine"), address=Address("10.0.0.7"))
    with pytest.raises(InvalidRequestError) as refused:
        await backends.delete(at, ADMIN, PROJECT, "mine", drain=False)
    title = "vultr small in eu: machine m-1 at 10.0.0.7, instance 1-machine (busy)"
    assert f"has machines that have not ended (1): `{title}`" in refused.value.message
    assert "--drain" in (refused.value.hint or "")
    assert (await found(at)).drain_asked_at is None


async def test_forced_deletion_gives_up_machines_that_history_and_the_answer_name(
    at: Context, clock: HandClock
) -> None:
    await add(at, clock)
    id = await id_of(at, "mine")
    ending = {"status": InstanceStatus.TERMINATING, "reason": InstanceReason.LAUNCH_TIMEOUT}
    await buy(at, id, address=Address("10.0.0.7"), **ending)
    lost = job(status=JobStatus.TERMINATING, instance_id="2-machine", reason=JobReason.STOPPED_BY_USER)
    await buy(at, id, id="2-machine", unreachable_since=clock.time, machine_id=None)
    await at.db.write(lambda tx: commits.add_run(tx, run(version=1), [lost], actor="user ada"))
    (listed,) = (await backends.list_for(at, ADMIN, PROJECT)).backends
    titles = [
        "vultr small in eu: machine m-1 at 10.0.0.7, instance 1-machine (terminating)",
        "vultr small in eu: machine unknown at 127.0.0.1, instance 2-machine (busy)",
    ]
    assert (listed.machines, listed.machine_titles) == (2, titles)
    assert len(await at.db.write(objects.offers_unanswered)) == 1
    removed = await backends.delete(at, ADMIN, PROJECT, "mine", drain=False, force=True)
    assert (removed.removed, removed.machines, removed.given_up) == (True, [], titles)
    assert await at.db.write(objects.offers_unanswered) == []
    assert await at.db.read(rows.every) == []
    for machine in ("1-machine", "2-machine"):
        given_up = await found(at, machine)
        assert (given_up.status, given_up.finished_at) == (InstanceStatus.TERMINATED, clock.time)
        assert given_up.reason is InstanceReason.BACKEND_REMOVED
    lines = await at.db.read(lambda tx: events.list_after(tx, "0-project", 0, run_id=None, limit=20, shared=True))
    told = [line.message for line in lines]
    assert any("removed the backend mine (vultr) by force; not confirmed as terminated (2)" in one for one in told)
    why = "given up, and not confirmed as terminated: ada has deleted its backend"
    assert sum(f"is terminated (backend removed: {why})" in one for one in told) == 2


async def test_forced_deletion_is_refused_while_jobs_run_on_machines_that_answer(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    await buy(at, await id_of(at, "mine"))
    running = job(status=JobStatus.RUNNING, instance_id="1-machine")
    await at.db.write(lambda tx: commits.add_run(tx, run(version=1), [running], actor="user ada"))
    with pytest.raises(InvalidRequestError, match="Jobs run in the backend `mine`, and their machines answer: `hello`"):
        await backends.delete(at, ADMIN, PROJECT, "mine", drain=False, force=True)
    assert (await found(at)).status is InstanceStatus.BUSY


async def test_forced_deletion_without_machines_is_a_plain_one_and_its_repetition_waits_for_nothing(
    at: Context, clock: HandClock
) -> None:
    await add(at, clock)
    await buy(at, await id_of(at, "mine"))
    await at.db.write(end)
    plain = await backends.delete(at, ADMIN, PROJECT, "mine", drain=False, force=True)
    assert (plain.removed, plain.given_up) == (False, []), "a lost launch may still create a machine"
    again = await backends.delete(at, ADMIN, PROJECT, "mine", drain=False, force=True)
    assert (again.removed, again.given_up) == (True, [])
    with pytest.raises(InvalidRequestError, match="either drained or forced"):
        await backends.delete(at, ADMIN, PROJECT, "mine", drain=True, force=True)


async def test_machines_of_a_backend_of_the_settings_are_counted(at: Context) -> None:
    at.backends.add(rows.BackendRecord("local", "local", "local"), None, "it is not asked")
    await buy(at, "local")
    for project in (PROJECT, None):
        (local,) = (await backends.list_for(at, ADMIN, project)).backends
        assert (local.name, local.type, local.machines) == ("local", "local", 1)


async def test_backend_that_never_had_a_machine_is_deleted_at_once(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    removed = await backends.delete(at, ADMIN, PROJECT, "mine", drain=False)
    assert (removed.removed, removed.machines) == (True, [])
    await follower_of(at, clock).load()
    assert list(at.backends) == []
    with pytest.raises(ResourceNotExistsError):
        await backends.check(at, ADMIN, PROJECT, "mine")


async def test_drained_backend_sells_nothing_and_goes_once_its_machines_are_certainly_gone(
    at: Context, clock: HandClock
) -> None:
    await add(at, clock)
    id = await id_of(at, "mine")
    await buy(at, id)
    drained = await backends.delete(at, ADMIN, PROJECT, "mine", drain=True)
    assert (drained.removed, len(drained.machines)) == (False, 1)
    await follower_of(at, clock).load()  # as after a restart
    assert (list(at.backends), at.backends.selling()) == ([id], []), "its machines are still called"
    assert "its backend is being removed" in (await found(at)).why_resting
    assert not await at.db.write(lambda tx: rows.remove_if_over(tx, id))

    await at.db.write(end)
    assert not await at.db.write(lambda tx: rows.remove_if_over(tx, id)), "a lost launch may still create one"
    clock.time += CERTAIN_AFTER
    assert await at.db.write(lambda tx: rows.remove_if_over(tx, id))
    await follower_of(at, clock).load()
    assert list(at.backends) == []


async def test_backend_that_is_being_removed_is_kept_by_being_added_again(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    id = await id_of(at, "mine")
    await buy(at, id)
    Vapor.machines.add("1-machine")
    await backends.delete(at, ADMIN, PROJECT, "mine", drain=True)
    again = await add(at, clock)
    assert (again.removing, await id_of(at, "mine"), at.backends.selling()) == (False, id, [id])
    assert (await found(at)).drain_asked_at is None


async def test_no_machine_is_bought_by_an_offer_that_is_older_than_the_removal(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    id = await id_of(at, "mine")
    (offer,) = await at.backends.offers(id, timeout_s=5)

    def write(tx: Tx) -> list[Instance]:
        waiting = job(id="1-job", run_id="1-run", demand=replace(job().demand, backends=("vultr",)), version=0)
        commits.add_run(tx, run(id="1-run", version=0), [waiting], actor="user ada")
        Scheduler(at.ids).look(tx, Market.of([offer]), check_move, {})
        return objects.live_instances(tx)

    await backends.delete(at, ADMIN, PROJECT, "mine", drain=False)
    assert await at.db.write(write) == []
    waiting = await at.db.read(lambda tx: objects.find_job(tx, "1-job"))
    assert waiting is not None and waiting.status is JobStatus.SUBMITTED


async def test_check_reports_the_wrong_field_and_counts_of_calls(at: Context, clock: HandClock) -> None:
    await add(at, clock)
    assert (await backends.check(at, ADMIN, PROJECT, "mine")).error is None
    id = await id_of(at, "mine")
    await at.backends.offers(id, timeout_s=5)
    at.backends.add(rows.BackendRecord(id, "vultr", "mine"), at.drivers.make(config_of("revoked")))
    checked = await backends.check(at, ADMIN, PROJECT, "mine")
    assert (checked.field, checked.error) == ("creds.api_key", "`creds.api_key`: the cloud does not know this key")
    assert [(one.verb, one.count, one.failed, one.running) for one in checked.calls] == [
        ("check", 2, 1, 0),
        ("offers", 1, 0, 0),
    ]


async def test_check_survives_a_bug_of_a_driver(at: Context, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Backend) -> None:
        raise KeyError("x")

    await add(at, clock)
    monkeypatch.setattr(Vapor, "check", fail)
    checked = await backends.check(at, ADMIN, PROJECT, "mine")
    assert checked.error == "its driver failed: KeyError; the server's log has the details"


async def test_backend_whose_credentials_cannot_be_decrypted_keeps_its_row_and_reports_it(
    at: Context, clock: HandClock
) -> None:
    await add(at, clock)
    await add(at, clock, "second")
    at.backends.remove(await id_of(at, "mine"))
    await follower_of(at, clock, Vault([new_key()])).load()
    mine = next(one for one in (await backends.list_for(at, ADMIN, PROJECT)).backends if one.name == "mine")
    assert "cannot be decrypted" in (mine.fault or "")
    checked = await backends.check(at, ADMIN, PROJECT, "mine")
    assert checked.error == mine.fault


async def test_backend_for_all_projects_is_deleted_by_admins_of_the_server_alone(at: Context, clock: HandClock) -> None:
    await add(at, clock, "everyones", None)
    for call in (
        backends.put(at, MEMBER, None, "everyones", config_of()),
        backends.delete(at, MEMBER, None, "everyones", drain=False),
        backends.delete(at, MEMBER, PROJECT, "everyones", drain=False, force=True),
        backends.list_for(at, MEMBER, None),
    ):
        with pytest.raises(ForbiddenError):
            await call
    assert (await backends.delete(at, ADMIN, None, "everyones", drain=False)).removed


async def test_project_with_a_backend_is_not_deleted(at: Context, clock: HandClock) -> None:
    await projects.create(at, ADMIN, "other")
    await add(at, clock, "mine", "other")
    with pytest.raises(InvalidRequestError, match="has the backend `mine`"):
        await projects.delete(at, ADMIN, "other")
    await backends.delete(at, ADMIN, "other", "mine", drain=False)
    await projects.delete(at, ADMIN, "other")


async def test_rows_win_over_the_file_and_what_is_missing_is_added(at: Context, clock: HandClock) -> None:
    await add(at, clock, "mine")
    before = await id_of(at, "mine")
    wanted = (
        Wanted(PROJECT, "mine", {**config_of("from the file"), "regions": ["mars"]}),
        Wanted("vision", "theirs", config_of()),
        Wanted(None, "everyones", config_of()),
    )
    for _ in range(2):
        await add_missing(at, Configured(("main", "vision", "empty"), wanted))
    assert await at.db.read(lambda tx: users.find_membership(tx, "empty", ADMIN.id)) is not None
    known = {one.name: one for one in await at.db.read(rows.every)}
    assert set(known) == {"mine", "theirs", "everyones"}
    assert (known["mine"].id, "regions" in known["mine"].config) == (before, False)
    names = await at.db.read(lambda tx: users.names_of(tx, [known["theirs"].project_id or ""]))
    assert (list(names.values()), known["everyones"].project_id) == (["vision"], None)


async def test_follower_deletes_the_row_of_a_drained_backend_once_its_cloud_lists_nothing(
    at: Context, clock: HandClock
) -> None:
    await add(at, clock)
    id = await id_of(at, "mine")
    await buy(at, id)

    await backends.delete(at, ADMIN, PROJECT, "mine", drain=True)
    await at.db.write(end)
    clock.time += CERTAIN_AFTER
    follower = follower_of(at, clock)
    await follower.load()
    (record,) = await at.db.read(rows.every)
    Vapor.machines.add("an orphan that the reconciler ends")
    await follower._finish_one(record)
    assert await id_of(at, "mine") == id
    Vapor.machines = {"of another backend, same account"}
    await buy(at, "1-other", id="of another backend, same account")
    Vapor.may_answer.clear()
    await follower._finish_one(record)
    assert await id_of(at, "mine") == id, "a silent cloud may still have machines"
    Vapor.may_answer.set()
    await follower._finish_one(record)
    assert await at.db.read(rows.every) == []


def test_offer_of_another_account_is_another_offer() -> None:
    assert replace(CLOUD, backend_id="1-row").name != CLOUD.name
