"""What must hold in every world, whatever fails: one function for each rule; it says how the rule is broken, or None.

A rule about a move is asked as soon as the move is committed, one about a machine or a job when it comes, starts or
goes, and the rest on every scan.
"""

from collections.abc import Collection, Iterator
from typing import Protocol

from dstack.domain.drains import DRAIN_FOR, ROUTES_WITHIN, SCALE_IN_FOR
from dstack.domain.launches import FAILED_MAX, WITHIN
from dstack.domain.reasons import UNWANTED
from dstack.domain.rollouts import ROLLOUT_FOR, ROLLOUT_TRIES
from dstack.engine.lifecycles import LIFECYCLES
from dstack.errors import IllegalMove
from dstack.protocol.agent import JobOrder
from dstack.protocol.statuses import InstanceReason, JobReason, JobStatus, RunStatus
from dstack.testing.behaviours import revision_in
from dstack.testing.ledger import InstanceRow, JobRow, Ledger, Note, ReplicaRow, ServiceRow
from dstack.testing.truth import ExistingMachine, Truth

CLAIMED_WITHIN_S = 1800.0
"""A machine may exist this long without a row that claims it: until somebody has looked at the cloud's list."""

ENDED_WITHIN_S = 3600.0
"""A machine may exist this long after nothing needs it and its idle time is over: clouds and agents may be silent."""

LOCATED_WITHIN_S = 120.0
"""The address of a machine that boots is asked for at least as often as this."""

PROMPT_WITHIN_S = 20.0
"""What was left for later is done at its time, or when a server that died meanwhile is back."""

FAILS_WITHIN_S, FAILS_MAX = 60.0, 20
"""So many starts may fail on one machine in so long: three in a row, and what it has room for after each rest."""

LINKS_WITHIN_S, LINKS_MAX = 600.0, 30
"""So many connections may be made to one agent in so long; a world breaks far fewer."""

ROLLBACK_WITHIN_S = 1800.0
"""A rollout that has failed is ended within so long: servers may be away."""

STUCK_AFTER_S = 4 * 3600.0
"""An object may stay in one status this long without anything that it waits for."""


class Clouds(Protocol):
    """What rules ask of the clouds."""

    def is_listed(self, key: str) -> bool:
        """Whether a cloud admits to have the machine."""
        ...

    def unasked_s(self, key: str) -> float:
        """For how long a machine has had an address that nobody has asked for."""
        ...


def statuses_move_along_the_table(note: Note, before: str | None) -> str | None:
    """Whatever is written, the lifecycles' tables have it; and each move is told by an event of its own.

    Args:
        before: the object's status until now; None for one that was just born.
    """
    table = LIFECYCLES[note.kind]
    old = table.start if before is None else table.status_of(before)
    if note.source == "row" and note.status != old:
        return f"{note.kind} {note.id} is {note.status} on record, and no event shows its move from {old}"
    try:
        table.check(old, table.status_of(note.status))
    except IllegalMove as error:
        return f"{note.kind} {note.id}: {error.message}"
    return None


def is_final(note: Note) -> bool:
    """Whether the object has ended."""
    table = LIFECYCLES[note.kind]
    return table.is_final(table.status_of(note.status))


def ended_jobs_do_not_run(job: JobRow, truth: Truth) -> str | None:
    """A job is over on record only when its processes are gone."""
    if job.is_finished and (key := truth.runs_on(job.id)) is not None:
        return f"{_title(job)} is {job.status} on record and runs on {key}"
    return None


def exit_codes_are_true(job: JobRow, truth: Truth) -> str | None:
    """An exit code on record is that of this very attempt; and only what did exit with 0 is done."""
    end, code = truth.ends.get(job.id, (None, None))
    if job.status == JobStatus.DONE and (end, code) != ("exited", 0):
        return f"{_title(job)} is done on record, and in truth {end or 'never ended'} with {code}"
    if job.exit_code is not None and job.exit_code != code:
        return f"{_title(job)} has exit code {job.exit_code} on record, and in truth {code}"
    return None


def ended_instances_have_no_machine(instance: InstanceRow, clouds: Clouds) -> str | None:
    """An instance is over on record only when its machine is gone."""
    if instance.finished_at_s is not None and clouds.is_listed(instance.id):
        return f"instance {instance.id} is {instance.status} on record, and its machine exists"
    return None


def fleets_keep_their_maximum(instance: InstanceRow, ledger: Ledger) -> str | None:
    """There are never more instances of an offer than it allows."""
    most = instance.offer["machines_max"]
    count = sum(one.offer == instance.offer for one in ledger.live_instances())
    if most is not None and count > most:
        return f"there are {count} of {instance.offer['instance_type']}, and {most} are allowed"
    return None


def machines_are_located(instance: InstanceRow, clouds: Clouds) -> str | None:
    """Until a machine is given up, its backend is asked for its address again and again."""
    unasked_s = clouds.unasked_s(instance.id)
    if instance.reason != InstanceReason.PROVISIONING_TIMEOUT or unasked_s <= LOCATED_WITHIN_S:
        return None
    return f"instance {instance.id} is given up, and its address was not asked for in the last {unasked_s:.0f} s"


def launches_in_vain_are_bounded(instance: InstanceRow, ledger: Ledger) -> Iterator[str]:
    """A run gets so many machines that do not start within an hour, and no more: twice the bound where hours meet."""
    for run_name, nodes, count in ledger.launches_in_vain(instance.id, WITHIN.total_seconds()):
        if count > (2 * FAILED_MAX + 1) * nodes:
            yield f"{count} machines of {run_name} did not start within an hour"


def retries_come_in_time(run_name: str, late_s: float) -> str | None:
    """The next attempt is submitted when it was said that it would be, without anybody having to look around."""
    return f"the retry of {run_name} came {late_s:.0f} s late" if late_s > PROMPT_WITHIN_S else None


def machines_have_a_row(key: str, ledger: Ledger) -> str | None:
    """The row comes first, under the key that the machine gets."""
    return f"a machine came under the key {key}, which is not on record" if ledger.instance(key) is None else None


def only_the_owner_acts(server: str, instance_id: str, ledger: Ledger) -> str | None:
    """What is done for an instance, and what is heard of it, is done and written by the server that sees to it."""
    owner = ledger.owner_of(instance_id)
    if owner not in (None, server):
        return f"{server} acts on behalf of instance {instance_id}, and {owner} owns it"
    return None


def jobs_start_once(job_id: str, truth: Truth) -> str | None:
    """No job is started twice."""
    return f"job {job_id} was started {truth.starts[job_id]} times" if truth.starts[job_id] > 1 else None


def attempts_do_not_overlap(run_id: str, node: str, truth: Truth) -> str | None:
    """An attempt begins when the one before is over in truth."""
    at_once = truth.running.get((run_id, node), {})
    return f"jobs {', '.join(at_once)} of run {run_id} run at once" if len(at_once) > 1 else None


def jobs_start_while_wanted(job_id: str, run_id: str, ledger: Ledger) -> str | None:
    """Nothing starts that has ended on record."""
    job = ledger.job(job_id)
    if job is None:
        return f"job {job_id} started, which is not on record"
    if job.is_finished or ledger.is_run_finished(run_id):
        return f"{_title(job)} started after its end"
    return None


def jobs_start_as_they_were_made(order: JobOrder, ledger: Ledger) -> str | None:
    """A job starts with the script of the revision that it was made from, whatever its run has become."""
    job, started = ledger.job(order.job_id), revision_in(order.script)
    if job is None or (named := ledger.revision_named(job)) == started:
        return None
    return f"{_title(job)} was made from revision {named}, and starts with the script of revision {started}"


def attempts_follow_the_revisions(job_id: str, ledger: Ledger) -> str | None:
    """An attempt is made from the revision that its run has by then."""
    job = ledger.job(job_id)
    if job is None or job.revision >= (due := ledger.revision_before(job)):
        return None
    return f"{_title(job)} was made from revision {job.revision}, and its run had revision {due}"


def replicas_are_bounded(service: ServiceRow, replicas: Collection[ReplicaRow]) -> str | None:
    """A replica begins only while there are, with it, at most as many as asked for and one.

    A service that scales has that one during an update only.
    """
    if len(replicas) <= service.most + (service.scale is None or service.rollout is not None):
        return None
    return f"{service.name} has {len(replicas)} replicas, and {service.most} are allowed"


def replicas_die_alone(service: ServiceRow, replica: ReplicaRow) -> str | None:
    """A service that goes on ends no replica beside another one."""
    if service.status == RunStatus.TERMINATING or replica.stop_asked != JobReason.SERVER:
        return None
    return f"replica {replica.number} of {service.name} is ended with another one"


def the_last_ready_replica_stays(
    service: ServiceRow, replica: ReplicaRow, replicas: Collection[ReplicaRow]
) -> str | None:
    """No ready replica is asked to leave unless another one is ready, none is needed, or a user forces it.

    One that has ended in the same commit was ready when that was decided.
    """
    is_forced = service.rollout is not None and service.rollout["is_forced"]
    rests = service.scale is not None and not service.scale.asked
    if replica.stop_asked not in UNWANTED or not replica.is_ready or is_forced or rests:
        return None
    now_s = replica.draining_since_s or replica.status_since_s
    others = (one for one in replicas if one.id != replica.id and one.stop_asked is None)
    if any(one.is_ready or (one.status == JobStatus.TERMINATING and one.status_since_s >= now_s) for one in others):
        return None
    return f"replica {replica.number} of {service.name} is the last that is ready, and is {replica.stop_asked}"


def drains_are_awaited(replica: ReplicaRow, ledger: Ledger) -> str | None:
    """A draining replica ends once every data plane has let go of it, or after its longest time."""
    if replica.draining_since_s is None or replica.reason not in UNWANTED:
        return None  # it may have ended by itself
    lasted_s = replica.status_since_s - replica.draining_since_s
    missing = ledger.data_planes(replica.status_since_s) - replica.drained_by
    longest = SCALE_IN_FOR if replica.reason == JobReason.SCALED_DOWN else DRAIN_FOR
    is_early = lasted_s < ROUTES_WITHIN.total_seconds() or (missing and lasted_s < longest.total_seconds())
    if not is_early:
        return None
    return (
        f"replica {replica.number} ({replica.id}) has drained for {lasted_s:.1f} s; {missing or 'nobody'} has requests"
    )


def requests_go_to_ready_replicas(replica: ReplicaRow, now_s: float) -> str | None:
    """A data plane sends no new requests to a replica that drains or has ended.

    Args:
        replica: one of those in the routes of a data plane that hears of every change.
    """
    if replica.is_finished:
        return f"a data plane sends requests to replica {replica.number} ({replica.id}), which has ended"
    if replica.draining_since_s is None or now_s - replica.draining_since_s < ROUTES_WITHIN.total_seconds():
        return None
    return f"a data plane sends new requests to replica {replica.number} ({replica.id}), which drains"


def rollouts_end(service: ServiceRow, replicas: Collection[ReplicaRow], now_s: float) -> str | None:
    """A revision that fails again and again, or never gets ready, is rolled back."""
    if service.rollout is None or service.rollout["back_to"] is None:
        return None
    for one in replicas:
        if one.deployment != service.deployment:
            continue
        if one.failures >= ROLLOUT_TRIES:
            return f"replica {one.number} of {service.name} has failed {one.failures} times in a rollout"
        unready_s = 0.0 if one.unready_since_s is None else now_s - one.unready_since_s
        if unready_s > ROLLOUT_FOR.total_seconds() + ROLLBACK_WITHIN_S:
            return f"replica {one.number} of {service.name} is not ready for {unready_s:.0f} s of a rollout"
    return None


def machines_are_claimed(truth: Truth, ledger: Ledger, now_s: float) -> Iterator[str]:
    """No machine exists that no row claims."""
    for machine in truth.machines.values():
        instance = ledger.instance(machine.key)
        claimed_until_s = machine.born_at_s if instance is None else instance.finished_at_s
        if claimed_until_s is not None and now_s - max(claimed_until_s, machine.born_at_s) > CLAIMED_WITHIN_S:
            yield f"the machine {machine.key} in {machine.cloud} exists, and no instance claims it"


def spending_stops(machine: ExistingMachine, ledger: Ledger, now_s: float) -> str | None:
    """A machine ends when its last run has, after its idle time. It costs nothing before it exists."""
    instance = ledger.instance(machine.key)
    if instance is None or instance.needed_until_s is None or instance.idle_duration_s is None:
        return None
    beyond_s = now_s - max(instance.needed_until_s + instance.idle_duration_s, machine.born_at_s)
    if beyond_s <= ENDED_WITHIN_S:
        return None
    wasted = instance.offer["price"] * beyond_s / 3600
    return f"instance {machine.key} went on for {beyond_s:.0f} s without need, for ${wasted:.2f}"


def no_machine_is_a_black_hole(key: str, truth: Truth) -> str | None:
    """A machine that fails start after start is left alone, for longer each time."""
    times_s = truth.failed_starts[key]
    failed = sum(times_s[-1] - at_s <= FAILS_WITHIN_S for at_s in times_s)
    return f"{failed} starts have failed on {key} within {FAILS_WITHIN_S:.0f} s" if failed > FAILS_MAX else None


def links_last(key: str, truth: Truth) -> str | None:
    """A connection to an agent lasts until something breaks it."""
    times_s = truth.links[key]
    made = sum(times_s[-1] - at_s <= LINKS_WITHIN_S for at_s in times_s)
    return f"{made} connections to {key} were made within {LINKS_WITHIN_S:.0f} s" if made > LINKS_MAX else None


def nothing_is_stuck(truth: Truth, ledger: Ledger, now_s: float) -> Iterator[str]:
    """Every run moves, has a job that runs, or waits for something that has a name: a place, a request, a time."""
    at_work = {run_id for (run_id, _), jobs in truth.running.items() if jobs} | ledger.resting()
    waits_for_a_reason = {RunStatus.SUBMITTED, RunStatus.PENDING}
    for id, (name, status, since_s) in ledger.runs().items():
        waits = RunStatus(status).is_finished() or status in waits_for_a_reason or id in at_work
        if not waits and now_s - since_s > STUCK_AFTER_S:
            yield f"{name} has been {status} for {now_s - since_s:.0f} s"


def accepted_runs_are_on_record(accepted: set[str], ledger: Ledger) -> Iterator[str]:
    """What a server said it took, it has."""
    known = {name for name, *_ in ledger.runs().values()}
    for name in sorted(accepted - known):
        yield f"{name} was accepted and is lost"


def everything_ends(truth: Truth, ledger: Ledger) -> Iterator[str]:
    """When all that users wanted is done, nothing is left."""
    for kind, id, status in ledger.unfinished():
        yield f"{kind} {id} is still {status}"
    for machine in truth.machines.values():
        yield f"the machine {machine.key} in {machine.cloud} still exists"


def logs_are_whole(job: JobRow, truth: Truth, stored_bytes: int) -> str | None:
    """What a job printed is stored, unless it was lost with its machine."""
    report = job.report
    if report is not None and report["logged"] and stored_bytes != report["log_bytes"]:
        return f"{_title(job)} printed {report['log_bytes']} bytes, and {stored_bytes} are stored"
    return None


def _title(job: JobRow) -> str:
    return f"job {job.id} (node {job.node} of {job.run_name}, attempt {job.attempt})"
