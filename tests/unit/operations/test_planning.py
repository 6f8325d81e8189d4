"""What a plan promises: it says what a submit would do now, and does nothing."""

import re
from dataclasses import replace

import pytest

from dstack.domain.backends import BackendRecord
from dstack.domain.market import Market
from dstack.domain.objects import Next
from dstack.domain.offers import Bounds
from dstack.engine.catalog import SILENT
from dstack.engine.lifecycles import check_move
from dstack.errors import InvalidRequestError, NoCapacityError
from dstack.operations import planning, submitting
from dstack.operations.context import Context
from dstack.operations.refusals import refusals_of
from dstack.protocol.requests import SubmitRun
from dstack.store import backends, commits, objects, queue, users
from dstack.store.db import Database
from dstack.store.tx import Tx
from tests.making import CLOUD, DEMAND, HERE, instance
from tests.unit.operations.test_runs import ADA, wish


async def test_a_plan_says_why_a_run_would_wait_and_changes_nothing(context: Context, db: Database) -> None:
    whole = {"resources": {"cpu": 4, "memory": "1GB..", "disk": "1GB.."}}
    assert (await planning.plan(context, ADA, "main", wish(**whole))).waits is None
    await submitting.submit(context, ADA, "main", wish(**whole, priority=10), key=None)
    behind = await planning.plan(context, ADA, "main", wish(**whole))
    assert behind.waits is not None, "the other takes the only machine"
    equal = await planning.plan(context, ADA, "main", wish(**whole, priority=10))
    assert equal.waits is not None, "among equals the earlier one is first"
    ahead = await planning.plan(context, ADA, "main", wish(**whole, priority=20))
    assert ahead.waits is None
    assert len(await db.read(lambda tx: objects.list_runs(tx, "0-project", limit=10)[0])) == 1
    assert await db.read(lambda tx: queue.ahead_of(tx, 0)[1]) == 1


async def test_plan_promises_no_wait_for_nodes_that_never_have_machines(context: Context) -> None:
    wanted = wish(nodes=100)
    planned = await planning.plan(context, ADA, "main", wanted)
    assert (planned.offers, planned.offers_total, planned.waits) == ([], 0, None)
    assert planned.refusals == ["no backend has the machines for 100 nodes at once"]
    with pytest.raises(NoCapacityError, match="No backend has the machines for 100 nodes at once"):
        await submitting.submit(context, ADA, "main", wanted, key=None)


async def test_run_whose_offers_all_have_a_quota_of_none_never_starts_unless_a_machine_exists(
    context: Context, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = replace(CLOUD, machines_max=0)
    market = Market.of([closed, replace(closed, region="us")])

    async def sells(self: object) -> Market:
        return market

    monkeypatch.setattr(type(context.catalog), "market", sells)
    planned = await planning.plan(context, ADA, "main", wish())
    assert (planned.offers, planned.offers_total, planned.waits) == ([], 0, None)
    said = "aws m5.large (2xCPU, 8GB, 100GB (disk)): the quota is 0 in eu-west-1, us"
    assert planned.refusals == [said]
    with pytest.raises(NoCapacityError, match=re.escape(f"No machine fits: {said}")):
        await submitting.submit(context, ADA, "main", wish(), key=None)
    await db.write(lambda tx: commits.commit(tx, Next((instance(version=0, offer=closed),)), check_move))
    assert (await planning.plan(context, ADA, "main", wish())).offers_total == 2
    await submitting.submit(context, ADA, "main", wish(), key=None)


def test_refusals_begin_with_the_offer_that_lacks_least_and_of_these_with_the_cheapest() -> None:
    wanted = replace(DEMAND, cpus=Bounds(64, None, True), memory_mib=Bounds(1 << 20, None, True))
    large = replace(CLOUD.resources, memory_mib=2 << 20)
    offers = [
        replace(CLOUD, instance_type="small", price=1.0),
        replace(CLOUD, instance_type="dear", price=9.0, resources=large),
        replace(CLOUD, instance_type="cheap", price=2.0, resources=large),
    ]
    nearest = [refusal.partition(" (")[0] for refusal in refusals_of(wanted, Market.of(offers))]
    assert nearest == [f"{CLOUD.backend} {name}" for name in ("cheap", "dear", "small")]


def test_refusals_name_the_same_machine_of_several_regions_once() -> None:
    wanted = replace(DEMAND, cpus=Bounds(64, None, True))
    offers = [replace(CLOUD, region=region, backend_id=id) for region in ("eu", "us") for id in ("1-row", "2-row")]
    (refusal,) = refusals_of(wanted, Market.of(offers))
    assert refusal.startswith(f"{CLOUD.title} (")


def test_refusal_by_backend_shows_name_and_type_of_what_there_is() -> None:
    ours = replace(CLOUD, backend_id="1-row", backend_name="research")
    refusals = refusals_of(replace(DEMAND, backends=("aws-b", "gcp")), Market.of([ours, HERE]))
    reasons = [refusal.rpartition(": ")[2] for refusal in refusals]
    assert reasons == ["asked aws-b, gcp, is local", "asked aws-b, gcp, is research (aws)"]


async def test_plan_and_submit_refuse_an_unknown_backend_with_the_projects_names_alone(
    context: Context, db: Database
) -> None:
    def add(tx: Tx) -> None:
        users.add_user(tx, "1-user", "bob", is_admin=False)
        users.add_project(tx, "1-project", "theirs", "1-user")
        backends.put(tx, BackendRecord("1-row", "aws", "research", "0-project"))
        backends.put(tx, BackendRecord("2-row", "aws", "their-secret", "1-project"))

    await db.write(add)
    assert (await planning.plan(context, ADA, "main", wish(backends=["research", "local"]))).offers_total == 1
    assert (await planning.plan(context, ADA, "main", wish(backends=["research"]))).offers_total == 0
    for word in ("nowhere", "their-secret"):
        for call in (
            planning.plan(context, ADA, "main", wish(backends=["aws", word])),
            submitting.submit(context, ADA, "main", wish(backends=["aws", word]), key=None),
        ):
            with pytest.raises(InvalidRequestError) as refused:
                await call
            said = refused.value.message.removeprefix(f"`backends`: there is no backend `{word}`")
            assert "Names: `research`. Types: `amddevcloud`" in said and "their-secret" not in said


async def test_plan_names_backends_that_do_not_answer_after_the_offers_that_do_not_fit(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(context.catalog), "absent", lambda catalog, project_id=None: {"aws": SILENT})
    fits = await planning.plan(context, ADA, "main", wish())
    assert fits.offers_total == 1 and fits.refusals == ["aws: the backend does not answer"]
    large = await planning.plan(context, ADA, "main", wish(resources={"cpu": "1000.."}))
    assert len(large.refusals) == 2 and large.refusals[1] == "aws: the backend does not answer"


async def test_submit_that_fits_nowhere_names_backends_that_do_not_answer(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(context.catalog), "absent", lambda catalog, project_id=None: {"aws": SILENT})
    with pytest.raises(NoCapacityError, match="; aws: the backend does not answer"):
        await submitting.submit(context, ADA, "main", wish(resources={"cpu": "1000.."}), key=None)


@pytest.mark.parametrize("replicas", ["0..4", "0"])
async def test_service_that_begins_without_replicas_is_planned_by_its_first_one(
    context: Context, monkeypatch: pytest.MonkeyPatch, replicas: str
) -> None:
    service = {"type": "service", "port": 8000, "commands": ["x"], "replicas": replicas}
    wanted = SubmitRun(configuration={**service, "scaling": {"metric": "rps", "target": 10}})
    planned = await planning.plan(context, ADA, "main", wanted)
    assert (planned.offers_total > 0, planned.waits) == (True, None)
    submitted = await submitting.submit(context, ADA, "main", wanted, key=None)
    assert (submitted.jobs, submitted.replicas_asked) == ([], 0)

    async def sells(self: object) -> Market:
        return Market.of([replace(CLOUD, machines_max=0)])

    monkeypatch.setattr(type(context.catalog), "market", sells)
    assert (await planning.plan(context, ADA, "main", wanted)).offers_total == 0
    with pytest.raises(NoCapacityError, match="the quota is 0"):
        await submitting.submit(context, ADA, "main", wanted, key=None)
