"""Runs, jobs and instances as they are on record: find them, list them. How they change: `store.commits`."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, select

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import Offer, OfferName, offer_of_json
from dstack.protocol.statuses import InstanceReason
from dstack.store.rows import T
from dstack.store.tables import instances, jobs, runs
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

JOBS_OF_RUN, JOBS_ON, LIVE_INSTANCES = "jobs of run", "jobs of instance", "live instances"
"""What `Tx.lists` remembers; `store.commits` keeps the lists true."""
SERVICES = "services"
"""Notices carry it among the ids of what has changed, where a service is new."""

ROOM, SOLD_OUT, IN_USE, UNANSWERED = "room", "sold out", "in use", "unanswered"
"""What `Tx.known` remembers: what is free on a machine, what was not to be had, and how many machines of each offer
there are. `store.commits` forgets it when that changes."""

IDS_AT_ONCE = 500

# Statements that run often are built once: building one takes longer than running it.
_UNFINISHED_JOBS_ON = select(jobs.c.id, jobs.c.version).where(
    jobs.c.instance_id == bindparam("instance_id"), jobs.c.finished_at.is_(None)
)
_UNFINISHED_JOBS_ON_EACH = (
    select(jobs.c.id, jobs.c.version, jobs.c.instance_id)
    .where(jobs.c.instance_id.in_(bindparam("instance_ids", expanding=True)), jobs.c.finished_at.is_(None))
    .order_by(jobs.c.id)
)
_JOBS_OF_RUNS = (
    select(jobs.c.id, jobs.c.version, jobs.c.run_id, jobs.c.replica, jobs.c.node)
    .where(jobs.c.run_id.in_(bindparam("run_ids", expanding=True)))
    .order_by(jobs.c.replica, jobs.c.node, jobs.c.attempt)
)
_LIVE_INSTANCES = (
    select(instances.c.id, instances.c.version).where(instances.c.finished_at.is_(None)).order_by(instances.c.id)
)


def find(tx: Tx, kind: type[T], id: str) -> T | None:
    """The object as this transaction knows it, or as it is on record."""
    rows = tx.rows[kind]
    if isinstance(known := tx.known.get((rows.kind, id)), kind):
        return known
    if (waiting := next((one for one in tx.unwritten(kind) if one.id == id), None)) is not None:
        return waiting
    row = tx.peek(rows.by_id, {"id": id}).one_or_none()
    return None if row is None else know(tx, rows.read(row))


def find_all(tx: Tx, kind: type[T], ids: Iterable[str]) -> dict[str, T]:
    """Those of the objects that exist, by id."""
    wanted = dict.fromkeys(ids)
    rows = tx.rows[kind]
    found = {id: one for id in wanted if isinstance(one := tx.known.get((rows.kind, id)), kind)}
    if len(found) == len(wanted):
        return found
    found |= {one.id: one for one in tx.unwritten(kind) if one.id in wanted}
    for some in _parts([id for id in wanted if id not in found]):
        found |= of_heads(tx, kind, tx.peek(rows.heads, {"ids": some}).all())
    return {id: found[id] for id in wanted if id in found}


def of_heads(tx: Tx, kind: type[T], heads: Sequence[Row[Any]], *, skips: bool = False) -> dict[str, T]:
    """The objects of some rows with an id and a version, by id. Those that are known in just this version are not read.

    Args:
        skips: whether an object that this version of dstack cannot read is logged and left out.
    """
    rows = tx.rows[kind]
    keys = [(rows.kind, head.id) for head in heads]
    seen = {} if tx.seen is None else tx.seen.some(keys)
    found = {
        head.id: one
        for head, key in zip(heads, keys, strict=True)
        if isinstance(one := tx.known.get(key, seen.get(key)), kind) and one.version == head.version
    }
    if tx.seen is not None:
        tx.known.update({(rows.kind, id): one for id, one in found.items() if one.finished_at is None})
    if len(found) == len(heads):
        return found
    for some in _parts([head.id for head in heads if head.id not in found]):
        for row in tx.peek(rows.by_ids, {"ids": some}).all():
            try:
                found[row.id] = know(tx, rows.read(row))
            except (LookupError, TypeError, ValueError):
                if not skips:
                    raise
                log.exception("The %s %s cannot be read", rows.kind, row.id)
    return {head.id: found[head.id] for head in heads if head.id in found}


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE))


def find_run(tx: Tx, id: str) -> Run | None:
    """The run of this id."""
    return find(tx, Run, id)


def append(tx: Tx, which: tuple[str, str], id: str) -> None:
    """Put an object on a list, where the list is in memory."""
    if (ids := tx.lists.get(which)) is not None:
        tx.lists[which] = (*ids, id)


def remove(tx: Tx, which: tuple[str, str], id: str) -> None:
    """Take an object off a list, where the list is in memory."""
    if (ids := tx.lists.get(which)) is not None:
        tx.lists[which] = tuple(one for one in ids if one != id)


_LATEST_NAMED = (
    select(runs.c.id)
    .where(runs.c.project_id == bindparam("project_id"), runs.c.name == bindparam("name"))
    .order_by(runs.c.id.desc())
    .limit(1)
)
_KEYED = select(runs.c.id).where(runs.c.idempotency_key == bindparam("key"))


def find_run_by(tx: Tx, project_id: str, name_or_id: str) -> Run | None:
    """The run of this id, or the latest of this name. Ids begin with a digit, and names with a letter."""
    if name_or_id[:1].isdigit():
        run = find_run(tx, name_or_id)
        return run if run is not None and run.project_id == project_id else None
    written = tx.peek(_LATEST_NAMED, {"project_id": project_id, "name": name_or_id}).scalar()
    ids = [one.id for one in tx.unwritten(Run) if (one.project_id, one.name) == (project_id, name_or_id)]
    latest = max([*ids, *([] if written is None else [written])], default=None)
    return None if latest is None else find_run(tx, latest)


def know(tx: Tx, thing: T) -> T:
    """Remember an object as it is on record now; what has ended will hardly be asked for again."""
    rows = tx.rows[type(thing)]
    if thing.finished_at is None:
        tx.known[rows.kind, thing.id] = thing
    if tx.seen is not None:
        tx.seen.put((rows.kind, thing.id), thing, rows.weight(thing))
    return thing


def find_run_by_key(tx: Tx, key: str) -> Run | None:
    """The run that was submitted under this idempotency key."""
    written = tx.peek(_KEYED, {"key": key}).scalar()
    id = next((one.id for one in tx.unwritten(Run) if one.idempotency_key == key), written)
    return None if id is None else find_run(tx, id)


LAST_ID = "z"
"""After all ids."""

_PAGE = (
    select(runs.c.id, runs.c.version)
    .where(runs.c.project_id == bindparam("project_id"), runs.c.id < bindparam("before"))
    .order_by(runs.c.id.desc())
    .limit(bindparam("limit"))
)
_UNFINISHED_PAGE = _PAGE.where(runs.c.finished_at.is_(None))


def list_runs(
    tx: Tx, project_id: str, *, unfinished: bool = False, before: str | None = None, limit: int
) -> tuple[list[Run], str | None]:
    """Return runs of a project, newest first, and the `before` of the next page; None where there is none.

    A run that this version cannot read, such as one in a status of a later version, is logged and left out.
    """
    values = {"project_id": project_id, "before": before or LAST_ID, "limit": limit}
    heads = tx.select(_UNFINISHED_PAGE if unfinished else _PAGE, values).all()
    found = of_heads(tx, Run, heads, skips=True)
    return list(found.values()), heads[-1].id if len(heads) == limit else None


def count_unfinished_runs(tx: Tx) -> int:
    """How many runs of all projects have not ended."""
    count: int = tx.select(select(func.count()).where(runs.c.finished_at.is_(None))).scalar_one()
    return count


def service_ids(tx: Tx) -> list[str]:
    """Return the ids of all services that have not ended."""
    query = select(runs.c.id).where(runs.c.type == "service", runs.c.finished_at.is_(None)).order_by(runs.c.id)
    return list(tx.select(query).scalars())


def unfinished_names(tx: Tx, *, project_id: str | None = None, user_id: str | None = None) -> list[str]:
    """Return the names of the unfinished runs of a project or of a user. Those that this version cannot read count."""
    owner = runs.c.user_id == user_id if project_id is None else runs.c.project_id == project_id
    query = select(runs.c.name).where(owner, runs.c.finished_at.is_(None)).order_by(runs.c.id)
    return list(tx.select(query).scalars())


def run_ids_of(tx: Tx, project_id: str, *, limit: int) -> list[str]:
    """Return the ids of some runs of a project. Those that this version cannot read count."""
    query = select(runs.c.id).where(runs.c.project_id == project_id).order_by(runs.c.id).limit(limit)
    return list(tx.select(query).scalars())


def find_job(tx: Tx, id: str) -> Job | None:
    """The job of this id."""
    return find(tx, Job, id)


def jobs_of_run(tx: Tx, run_id: str) -> list[Job]:
    """The latest attempt of each job of a run, by replica and node."""
    ids = tx.lists.get((JOBS_OF_RUN, run_id))
    if ids is not None:
        return jobs_by_id(tx, ids)
    latest = jobs_of_runs(tx, [run_id]).get(run_id, [])
    tx.lists[JOBS_OF_RUN, run_id] = tuple(job.id for job in latest)
    return latest


def know_jobs_of_runs(tx: Tx, run_ids: Iterable[str]) -> None:
    """Remember the latest attempts of the jobs of runs, for `jobs_of_run`."""
    for some in _parts([id for id in run_ids if (JOBS_OF_RUN, id) not in tx.lists]):
        found = jobs_of_runs(tx, some)
        tx.lists.update({(JOBS_OF_RUN, id): tuple(job.id for job in found.get(id, ())) for id in some})


def jobs_of_runs(tx: Tx, run_ids: Sequence[str]) -> dict[str, list[Job]]:
    """The latest attempt of each job, by run, each by replica and node."""
    found = {id: jobs_by_id(tx, tx.lists[JOBS_OF_RUN, id]) for id in run_ids if (JOBS_OF_RUN, id) in tx.lists}
    asked = [id for id in run_ids if id not in found]
    heads = tx.select(_JOBS_OF_RUNS, {"run_ids": asked}).all() if asked else []
    latest = {(head.run_id, head.replica, head.node): head for head in heads}
    jobs_by = of_heads(tx, Job, list(latest.values()))
    for head in latest.values():
        found.setdefault(head.run_id, []).append(jobs_by[head.id])
    return found


def attempts_of_runs(tx: Tx, run_ids: Sequence[str]) -> dict[str, dict[tuple[int, int], list[Job]]]:
    """All attempts of each job, first to last, by run and by replica and node."""
    found: dict[str, dict[tuple[int, int], list[Job]]] = {}
    heads = tx.select(_JOBS_OF_RUNS, {"run_ids": list(run_ids)}).all()
    by_id = of_heads(tx, Job, heads)
    for head in heads:
        found.setdefault(head.run_id, {}).setdefault((head.replica, head.node), []).append(by_id[head.id])
    return found


_ATTEMPTS = (
    select(jobs.c.id, jobs.c.attempt, jobs.c.finished_at.label("ended_at"), runs.c.finished_at)
    .join(runs, runs.c.id == jobs.c.run_id)
    .where(
        jobs.c.run_id == bindparam("run_id"),
        jobs.c.replica == bindparam("replica"),
        jobs.c.node == bindparam("node"),
    )
    .order_by(jobs.c.attempt)
)


def attempts_of(tx: Tx, run_id: str, replica: int, node: int) -> tuple[list[str], bool]:
    """The ids of all attempts of one job of a run, first to last, and whether the run has ended (or was deleted)."""
    rows = tx.select(_ATTEMPTS, {"run_id": run_id, "replica": replica, "node": node}).all()
    return [row.id for row in rows], not rows or rows[0].finished_at is not None


def attempt_of(tx: Tx, run_id: str, replica: int, node: int, attempt: int) -> tuple[list[str], bool]:
    """Return the id of one attempt of a job in a list, empty where it is missing, and whether it has ended."""
    rows = tx.select(_ATTEMPTS, {"run_id": run_id, "replica": replica, "node": node}).all()
    wanted = [row for row in rows if row.attempt == attempt]
    return [row.id for row in wanted], all(row.ended_at is not None for row in wanted)


def gang_of(tx: Tx, job: Job) -> list[Job]:
    """The nodes of the same replica and attempt, this one among them, in order."""
    if job.nodes == 1:
        return [job]
    latest = jobs_of_run(tx, job.run_id)
    return [node for node in latest if (node.replica, node.attempt) == (job.replica, job.attempt)]


def unfinished_jobs_on(tx: Tx, instance_id: str) -> list[Job]:
    """The jobs of an instance that have not ended."""
    ids = tx.lists.get((JOBS_ON, instance_id))
    if ids is not None:
        return jobs_by_id(tx, ids)
    found = list(of_heads(tx, Job, tx.select(_UNFINISHED_JOBS_ON, {"instance_id": instance_id}).all()).values())
    tx.lists[JOBS_ON, instance_id] = tuple(job.id for job in found)
    return found


def unfinished_jobs_on_each(tx: Tx, instance_ids: Iterable[str]) -> dict[str, list[Job]]:
    """The jobs of some instances that have not ended, by instance."""
    wanted = list(instance_ids)
    for some in _parts([id for id in wanted if (JOBS_ON, id) not in tx.lists]):
        of_instance: dict[str, list[str]] = {id: [] for id in some}
        heads = tx.select(_UNFINISHED_JOBS_ON_EACH, {"instance_ids": some}).all()
        of_heads(tx, Job, heads)  # which are known from now on
        for head in heads:
            of_instance[head.instance_id].append(head.id)
        tx.lists.update({(JOBS_ON, id): tuple(ids) for id, ids in of_instance.items()})
    return {id: unfinished_jobs_on(tx, id) for id in wanted}


def jobs_by_id(tx: Tx, ids: Iterable[str]) -> list[Job]:
    """Those of the jobs that exist."""
    return list(find_all(tx, Job, ids).values())


def find_instance(tx: Tx, id: str) -> Instance | None:
    """The instance of this id."""
    return find(tx, Instance, id)


def live_instances(tx: Tx) -> list[Instance]:
    """Every instance whose machine may exist."""
    return list(instances_by_id(tx, live_ids(tx)).values())


def live_ids(tx: Tx) -> tuple[str, ...]:
    """Their ids."""
    ids = tx.lists.get((LIVE_INSTANCES, ""))
    if ids is None:
        ids = tuple(of_heads(tx, Instance, tx.select(_LIVE_INSTANCES).all()))
        tx.lists[LIVE_INSTANCES, ""] = ids
    return ids


def machines_in_use(tx: Tx) -> Counter[OfferName]:
    """How many machines of each offer may exist."""
    known: Counter[OfferName] | None = tx.known.get((IN_USE, ""))
    if known is None:
        known = tx.known[IN_USE, ""] = Counter(one.offer.name for one in live_instances(tx))
    return known


def instances_by_id(tx: Tx, ids: Iterable[str]) -> dict[str, Instance]:
    """Those of the instances that exist."""
    return find_all(tx, Instance, ids)


_SOLD_OUT = select(instances.c.finished_at, instances.c.offer).where(
    instances.c.finished_at > bindparam("since"),
    instances.c.reason.in_([InstanceReason.NO_OFFERS, InstanceReason.LAUNCH_TIMEOUT]),
)


def offers_unanswered(tx: Tx) -> list[Offer]:
    """Return the offers of which a launch was not answered and may still create a machine."""
    known: list[Offer] | None = tx.known.get((UNANSWERED, ""))
    if known is None:
        known = [one.offer for one in live_instances(tx) if one.reason is InstanceReason.LAUNCH_TIMEOUT]
        tx.known[UNANSWERED, ""] = known
    return known


def offers_sold_out(tx: Tx, since: datetime) -> list[Offer]:
    """Return the offers of which a request for a machine was in vain, and is over since then."""
    known: list[tuple[datetime, Offer]] | None = tx.known.get((SOLD_OUT, ""))
    if known is None:
        rows = tx.select(_SOLD_OUT, {"since": since})
        known = tx.known[SOLD_OUT, ""] = [(row.finished_at, offer_of_json(row.offer)) for row in rows]
    return [offer for at, offer in known if at > since]
