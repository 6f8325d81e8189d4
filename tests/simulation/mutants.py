"""Bugs that somebody could make: each is planted into the real code by substitution, and taken out again."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, Table, Update, bindparam, update

from dstack.backends.base import LaunchRequest
from dstack.domain import autoscaling, births, serving
from dstack.domain import routes as domain_routes
from dstack.domain.intents import Done, Failed, LaunchMachine, LocateMachine, StartJob, TerminateMachine
from dstack.domain.lifecycle import In, Lifecycle
from dstack.domain.market import Market
from dstack.domain.objects import Instance, InstanceView, Job, JobView, Next, Run, RunView
from dstack.domain.placement import passes
from dstack.domain.replicas import Replicas
from dstack.domain.retries import FIRST_DELAY, RetryPolicy
from dstack.domain.rooms import Room
from dstack.engine import catalog, facts, inbox, leases, outbox, routes, scheduler, turn
from dstack.engine.backends import BackendFollower
from dstack.engine.effects import PERFORMERS, jobs, machines
from dstack.engine.effects.means import Means
from dstack.engine.instances import booting, keeping, terminating
from dstack.engine.jobs import stopping, watching
from dstack.engine.lifecycles import INSTANCE, JOB
from dstack.engine.runs import deriving, following, scaling, services, waiting
from dstack.errors import BackendUnavailable
from dstack.hosts import link
from dstack.hosts.inbox import Strangers
from dstack.protocol.agent import ORDER_FIELDS, JobReport
from dstack.protocol.proxy import Service
from dstack.protocol.statuses import InstanceStatus, JobReason, JobStatus
from dstack.store import backends, commits, intents, objects, revisions, traffic, wakes
from dstack.store import leases as store_leases
from dstack.store.kinds import run as run_kind
from dstack.store.tx import Tx
from dstack.testing.databases import SharedSqlite

Plant = Callable[[], Any]
MUTANTS: dict[str, Plant] = {}


def mutant(plant: Plant) -> Plant:
    """A context manager that plants one bug."""
    MUTANTS[plant.__name__] = plant
    return plant


def _instead_of_step(table: Lifecycle[Any, Any], status: Any, step: Callable[[Any], Next]) -> Any:
    return patch.dict(_rows(table), {status: In(step, table.rows[status].to)})


def _rows(table: Lifecycle[Any, Any]) -> dict[Any, Any]:
    assert isinstance(table.rows, dict)
    return table.rows


@mutant
def a_machine_that_fails_start_after_start_takes_further_jobs() -> Any:
    return patch.object(watching, "after_failed_start", lambda instance, why, now: instance)


@mutant
def a_machine_is_bought_before_its_row_is_committed() -> Any:
    born = scheduler._born
    drivers: dict[str, Any] = {}

    class Catalog(catalog.Catalog):
        def __init__(self, known: Any, clock: Any, ids: Any) -> None:
            drivers.update({name: entry.driver for name, entry in known._entries.items()})
            super().__init__(known, clock, ids)

    def buys(room: Room, id: str, first: Job, now: Any) -> Instance:
        drivers[room.offer.backend].launch(LaunchRequest(key=id, name="early", offer=room.offer))
        return born(room, id, first, now)

    return _all(patch("dstack.server.parts.Catalog", Catalog), patch.object(scheduler, "_born", buys))


@mutant
def a_machine_is_bought_anew_each_time_a_launch_is_tried() -> Any:
    numbers = itertools.count()

    async def request_for(means: Means, instance: Instance) -> LaunchRequest:
        return LaunchRequest(key=f"9{next(numbers):05d}", name="another", offer=instance.offer)

    return patch.object(machines, "_request_for", request_for)


@mutant
def the_end_of_a_machine_is_believed_without_confirmation() -> Any:
    async def terminate(means: Means, intent: TerminateMachine) -> Done:
        try:
            return await machines.terminate(means, intent)
        except BackendUnavailable:
            return Done({})

    return patch.dict(PERFORMERS, {TerminateMachine: terminate})


@mutant
def nobody_asks_for_the_end_of_a_machine() -> Any:
    def terminate(view: InstanceView) -> Next:
        gone = replace(view.instance, status=InstanceStatus.TERMINATED, status_since=view.now, finished_at=view.now)
        return Next((gone,))

    return _instead_of_step(INSTANCE, InstanceStatus.TERMINATING, terminate)


@mutant
def the_end_of_a_machine_that_was_refused_is_not_asked_for_again() -> Any:
    def terminate(view: InstanceView) -> Next:
        is_refused = isinstance(view.outcomes.get(TerminateMachine), Failed)
        return Next() if is_refused else terminating.terminate(view)

    return _instead_of_step(INSTANCE, InstanceStatus.TERMINATING, terminate)


@mutant
def the_address_of_a_machine_is_asked_for_once() -> Any:
    def look_up(view: InstanceView, every: timedelta) -> tuple[LocateMachine, ...]:
        return _LOOK_UP(view, every) if LocateMachine not in view.outcomes else ()

    return patch.object(booting, "_look_up", look_up)


_LOOK_UP = booting._look_up


@mutant
def a_machine_that_failed_to_boot_is_left_behind() -> Any:
    async def terminate(means: Means, intent: TerminateMachine) -> Done:
        instance = await means.instance(intent.object_id)
        return Done({}) if instance.agent_seen_at is None else await machines.terminate(means, intent)

    return patch.dict(PERFORMERS, {TerminateMachine: terminate})


@mutant
def a_job_waits_for_a_launch_that_hangs() -> Any:
    return patch.object(LaunchMachine, "within", None)


@mutant
def a_failed_boot_is_launched_again_without_end() -> Any:
    def retry_at(policy: RetryPolicy | None, reason: JobReason, *, now: datetime, **more: Any) -> datetime | None:
        return None if policy is None else now + FIRST_DELAY

    return patch.object(deriving, "retry_at", retry_at)


@mutant
def a_backend_is_removed_with_its_machines() -> Any:
    async def is_empty(self: BackendFollower, record: Any) -> bool:
        return True

    no_look = patch.object(BackendFollower, "_is_empty", is_empty)
    return _all(no_look, patch.object(backends, "is_over", lambda tx, id: True))


@mutant
def idle_machines_are_kept_for_ever() -> Any:
    def idle(view: InstanceView) -> Next:
        return keeping.idle(replace(view, instance=replace(view.instance, idle_duration=None)))

    return _instead_of_step(INSTANCE, InstanceStatus.IDLE, idle)


@mutant
def what_was_left_open_is_not_taken_up_after_a_crash() -> Any:
    return patch.object(intents, "list_open", lambda *_, **__: [])


@mutant
def what_came_of_an_intent_is_not_recorded() -> Any:
    async def record(self: outbox.Outbox, *_: object) -> bool:
        return True

    return patch.object(outbox.Outbox, "_record", record)


@mutant
def timers_are_lost_and_nobody_looks_around() -> Any:
    def add(tx: Tx, kind: str, id: str, *, after: timedelta = timedelta(0)) -> None:
        if not after:
            _ADD(tx, kind, id)

    return _all(patch.object(wakes, "add", add), patch.object(wakes, "everything", lambda tx: []))


_ADD = wakes.add


@mutant
def the_next_attempt_starts_before_the_last_one_is_over() -> Any:
    def retry_or_end(view: RunView, failed: Job) -> Next:
        over = tuple(replace(job, status=JobStatus.FAILED) for job in view.jobs)
        return _RETRY_OR_END(replace(view, jobs=over), failed)

    return patch.object(deriving, "_retry_or_end", retry_or_end)


_RETRY_OR_END = deriving._retry_or_end


@mutant
def a_report_about_an_old_attempt_is_believed_of_the_new_one() -> Any:
    def believed(run: Run, job: Job, id: str, now: datetime) -> Job:
        return replace(births.next_attempt(run, job, id, now), report=job.report)

    return patch.object(waiting, "next_attempt", believed)


@mutant
def placement_buys_more_than_there_may_be() -> Any:
    class Boundless(passes.Stock):
        def __init__(self, market: Market, in_use: Any) -> None:
            super().__init__(market, {})

    return patch.object(passes, "Stock", Boundless)


@mutant
def a_job_on_a_silent_machine_is_given_up_at_once() -> Any:
    def stop(view: JobView) -> Next:
        if view.instance is not None and view.instance.unreachable_since is not None:
            return stopping._finish(view, view.job)
        return stopping.stop(view)

    return _instead_of_step(JOB, JobStatus.TERMINATING, stop)


@mutant
def a_start_that_is_asked_again_is_another_job() -> Any:
    numbers = itertools.count()

    async def start(means: Means, intent: StartJob) -> Done:
        order = await means.db.recall(lambda tx: jobs.complete_order(tx, intent.object_id, means.vault))
        link = await means.link_to(intent.instance_id)
        assert link is not None
        again = replace(order, job_id=f"{order.job_id}-{next(numbers)}")
        await link.start(again)
        return Done({})

    return patch.dict(PERFORMERS, {StartJob: start})


@mutant
def the_table_of_moves_is_not_asked() -> Any:
    def watch(view: JobView) -> Next:
        job = view.job
        if job.report is not None and job.report.state == "ended":
            return Next(
                (
                    replace(
                        job, status=JobStatus.DONE, status_since=view.now, finished_at=view.now, reason=JobReason.EXITED
                    ),
                )
            )
        return Next()

    return _all(_instead_of_step(JOB, JobStatus.RUNNING, watch), patch.object(turn, "check_move", lambda *_: None))


@mutant
def log_bytes_are_acknowledged_and_not_stored() -> Any:
    async def logged(self: inbox.EngineInbox, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        return offset + len(data)

    return patch.object(inbox.EngineInbox, "logged", logged)


@mutant
def a_submit_is_accepted_before_it_is_committed() -> Any:
    """What is committed late may be lost meanwhile."""
    add_run = commits.add_run

    def forget_some(tx: Tx, run: Run, born: Any, **more: Any) -> None:
        add_run(tx, run, born, **more)
        if int(run.id) % 7 == 0:
            tx._objects.clear()
            tx._added.clear()

    return patch.object(commits, "add_run", forget_some)


@mutant
def a_job_is_started_with_the_latest_script_of_its_run() -> Any:
    return patch.object(revisions, "find", lambda tx, run, number: run.current)


@mutant
def the_next_attempt_is_made_from_the_revision_of_the_last_one() -> Any:
    def again(run: Run, job: Job, id: str, now: datetime) -> Job:
        return births.next_attempt(replace(run, revision=job.revision), job, id, now)

    return patch.object(waiting, "next_attempt", again)


@mutant
def a_server_acts_without_a_lease() -> Any:
    return patch.object(leases.Leases, "owns", lambda *_: True)


@mutant
def what_a_former_owner_heard_is_written() -> Any:
    return patch.object(store_leases, "check", lambda *_: None)


@mutant
def what_another_server_wrote_is_overwritten() -> Any:
    """Neither is it forgotten what was remembered before, nor do versions tell."""

    def begin(self: SharedSqlite, conn: Connection) -> bool:
        _BEGIN(self, conn)
        return False

    def update_of(table: Table, columns: tuple[str, ...]) -> Update:
        any_version = (table.c.id == bindparam("of_id")) & (bindparam("of_version") >= 0)
        return update(table).where(any_version).values({name: bindparam(name) for name in columns})

    return _all(patch.object(SharedSqlite, "begin", begin), patch("dstack.store.tx._update_of", cache(update_of)))


_BEGIN = SharedSqlite.begin


@mutant
def a_report_is_believed_from_any_machine() -> Any:
    def store_reports(tx: Tx, instance_id: str, reports: list[JobReport]) -> Strangers:
        jobs = {job.id: job for job in objects.jobs_by_id(tx, [report.job_id for report in reports])}
        for report in reports:
            job = jobs.get(report.job_id)
            if job is not None and job.finished_at is None and job.report != report:
                commits.record(tx, replace(job, report=report, lost_at=None))
        return {}

    taken = patch.object(link.Reports, "_taken", lambda self, report: report)
    return _all(taken, patch.object(facts, "store_reports", store_reports))


@mutant
def a_message_of_an_unknown_type_breaks_the_link() -> Any:
    async def read_message(reader: Any) -> Any:
        received = await _READ_MESSAGE(reader)
        if received is not None and received[0] is None:
            raise ConnectionError("an unknown message")
        return received

    return patch.object(link, "read_message", read_message)


_READ_MESSAGE = link.read_message


@mutant
def an_agent_of_another_version_is_refused() -> Any:
    async def greet(reader: Any, writer: Any, session: int, reports: Any) -> Any:
        greeted = await _GREET(reader, writer, session, reports)
        if greeted.order_fields != frozenset(ORDER_FIELDS):
            raise ConnectionError("another version")
        return greeted

    return patch.object(link, "greet", greet)


_GREET = link.greet


@mutant
def a_replica_that_dies_takes_the_others_with_it() -> Any:
    return patch.object(following, "serve", deriving.derive)


@mutant
def all_old_replicas_are_replaced_at_once() -> Any:
    return patch.object(services, "_replaceable", lambda replicas, now: replicas.old)


@mutant
def a_rollout_begins_with_all_its_replicas() -> Any:
    without_bound = patch.object(run_kind, "most_replicas_of", lambda configuration: 100)
    return _all(without_bound, patch.object(Replicas, "alive", property(lambda self: len(self.current))))


@mutant
def a_drain_is_not_awaited() -> Any:
    return patch.object(watching, "_drain_goes_on_for", lambda view: None)


@mutant
def a_bad_revision_is_tried_for_ever() -> Any:
    return patch.object(services, "why_back", lambda *_: None)


@mutant
def requests_go_to_replicas_that_drain() -> Any:
    def service_of(run: Run, project: str, jobs: Iterable[Job], *more: Any) -> Service:
        return domain_routes.service_of(run, project, [replace(job, stop_asked=None) for job in jobs], *more)

    return patch.object(routes, "service_of", service_of)


@mutant
def a_decision_is_taken_twice() -> Any:
    """It is told and not kept: the next step takes it again."""

    def update_of(tx: Tx, new: Any, old: Any, actor: str) -> None:
        forgets = isinstance(new, Run) and new.scale is not None and old.scale is not None
        _UPDATE(tx, replace(new, scale=old.scale) if forgets else new, old, actor)

    return patch.object(commits, "_update", update_of)


_UPDATE = commits._update


@mutant
def a_replica_that_is_not_needed_ends_with_its_requests() -> Any:
    def drained(job: Job, reason: JobReason, now: datetime) -> Job:
        busy = _DRAINED(job, reason, now)
        return replace(busy, draining_since=None) if reason is JobReason.SCALED_DOWN else busy

    return patch.object(services, "_drained", drained)


_DRAINED = services._drained


@mutant
def a_held_request_wakes_no_service() -> Any:
    return patch.object(traffic, "wakes", SimpleNamespace(add_many=lambda tx, whom: None))


@mutant
def a_service_without_replicas_refuses_requests() -> Any:
    return patch.object(domain_routes, "starts", lambda run, jobs: bool(jobs) and serving.starts(run, jobs))


@mutant
def only_requests_that_wait_count() -> Any:
    def decide(rules: Any, scale: Any, histories: Any, now: datetime) -> Any:
        waits = any(history[-1].held for history in histories)
        return autoscaling.decide(rules, scale, histories if waits else (), now)

    return patch.object(scaling, "decide", decide)


@mutant
def a_quiet_service_keeps_its_replicas() -> Any:
    def decide(rules: Any, scale: Any, *seen: Any) -> Any:
        decision = autoscaling.decide(rules, scale, *seen)
        return replace(decision, asked=max(decision.asked, scale.asked))

    return patch.object(scaling, "decide", decide)


@contextmanager
def _all(*planted: Any) -> Iterator[None]:
    first, *rest = planted
    with first:
        if rest:
            with _all(*rest):
                yield
        else:
            yield
