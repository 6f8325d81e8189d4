"""Runs: their rows, the view of their steps, and the objects that depend on them."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from dstack.domain.autoscaling import Rules, reach_s, scale_of_json, scale_to_json
from dstack.domain.launches import launches_of_json, launches_to_json
from dstack.domain.objects import Job, Run, RunView
from dstack.domain.rollouts import rollout_of_json, rollout_to_json
from dstack.domain.sizes import most_replicas_of, rules_of
from dstack.domain.specs import SERVICE, configuration_in
from dstack.kit.ids import Ids
from dstack.protocol.statuses import JobReason, RunStatus
from dstack.store import objects, queue, revisions, tables, traffic
from dstack.store.kinds.kind import Kind, Place
from dstack.store.rows import Column, Rows
from dstack.store.tx import Tx


def _run_of(row: Row[Any]) -> Run:
    return Run(
        id=row.id,
        project_id=row.project_id,
        user_id=row.user_id,
        name=row.name,
        type=row.type,
        status=RunStatus(row.status),
        status_since=row.status_since,
        submitted_at=row.submitted_at,
        spec=row.spec,
        revision=row.revision,
        deployment=row.deployment,
        rollout=rollout_of_json(row.rollout),
        scale=scale_of_json(row.scale),
        priority=row.priority,
        started_at=row.started_at,
        finished_at=row.finished_at,
        reason=None if row.reason is None else JobReason(row.reason),
        detail=row.detail,
        stop_asked=None if row.stop_asked is None else JobReason(row.stop_asked),
        retry_at=row.retry_at,
        failing_since=row.failing_since,
        launches=launches_of_json(row.launches),
        idempotency_key=row.idempotency_key,
        version=row.version,
    )


_COLUMNS: dict[str, Column] = {
    "launches": lambda launches: {"launches": launches_to_json(launches)},
    "rollout": lambda rollout: {"rollout": rollout_to_json(rollout)},
    "scale": lambda scale: {"scale": scale_to_json(scale)},
}


def _view_of(tx: Tx, run: Run, ids: Ids) -> RunView:
    """A run and the latest attempts of its jobs."""
    jobs = tuple(objects.jobs_of_run(tx, run.id))
    is_pending = run.status is RunStatus.PENDING
    if run.type == SERVICE:
        return _view_of_service(tx, run, jobs, ids)
    new_ids = tuple(ids.new_id() for _ in jobs or configuration_in(run.current).jobs()) if is_pending else ()
    return RunView(run, jobs, tx.clock.now(), new_ids)


def _view_of_service(tx: Tx, run: Run, jobs: tuple[Job, ...], ids: Ids) -> RunView:
    alive = sum(not job.status.is_finished() for job in jobs)
    configuration = configuration_in(run.current)
    new_ids = tuple(ids.new_id() for _ in range(most_replicas_of(configuration) + 1 - alive))
    rules = rules_of(configuration)
    back_to = None if run.rollout is None else run.rollout.back_to
    return RunView(
        run,
        jobs,
        tx.clock.now(),
        new_ids,
        revised_at=revisions.made_at(tx, run) if run.revision > 1 and len(jobs) > alive else None,
        way_back=None if back_to is None else revisions.find(tx, run, back_to),
        traffic=() if rules is None else traffic.read(tx, [run.id], _reached(tx, rules)).get(run.id, ()),
        listens_since=tx.opened_at,
    )


def _reached(tx: Tx, rules: Rules) -> datetime:
    """Return the time since when the traffic matters."""
    return tx.clock.now() - timedelta(seconds=reach_s(rules))


def _read_ahead(tx: Tx, ids: Sequence[str]) -> None:
    objects.know_jobs_of_runs(tx, objects.find_all(tx, Run, ids))


def _changed(tx: Tx, run: Run, old: Run) -> None:
    if run.stop_asked != old.stop_asked:
        for job in objects.jobs_of_run(tx, run.id):
            queue.update(tx, job)
    if (run.finished_at, run.revision) != (old.finished_at, old.revision):
        tx.notices.changed.add(run.id)


RUN = Kind(
    Rows("run", Run, tables.runs, _run_of, _COLUMNS, weight=lambda run: 4_000 + 2 * len(json.dumps(run.spec))),
    title=lambda run: f"run {run.name}",
    view=_view_of,
    read_ahead=_read_ahead,
    place=lambda run: Place(run_id=run.id),
    changed=_changed,
)
