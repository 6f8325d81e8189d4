"""Watches a made-up world: tells its story, and asks after each step whether what must hold does hold."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dstack.logs.base import LogStore
from dstack.protocol.agent import JobOrder
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.testing import invariants
from dstack.testing.ledger import Ledger, Note, ReplicaRow
from dstack.testing.nature import Observer
from dstack.testing.scaling import ScalingWatch
from dstack.testing.truth import ExistingMachine, Truth

SCAN_EVERY_S = 600.0
VIOLATIONS_MAX = 10
"""What one bug breaks it breaks many times."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken."""

    invariant: str
    """The name of a function in `dstack.testing.invariants`."""
    at_s: float
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what} (at {self.at_s:.2f} s)"


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened."""

    at_s: float
    who: str
    what: str

    def __str__(self) -> str:
        days, rest_s = divmod(self.at_s, 86_400)
        minutes, seconds = divmod(rest_s, 60)
        return f"{days:2.0f}d {minutes // 60:02.0f}:{minutes % 60:02.0f}:{seconds:05.2f}  {self.who:<16}  {self.what}"


class Watch(Observer):
    """The eye on one world.

    Args:
        is_punctual: whether what is due can be expected to be done at its time.
    """

    def __init__(self, ledger: Ledger, clouds: invariants.Clouds, *, is_punctual: bool) -> None:
        self.ledger = ledger
        self.truth = Truth()
        self.violations: list[Violation] = []
        self.lines: list[Line] = []
        self.scaling = ScalingWatch(ledger, self._blame, is_punctual=is_punctual)
        self.when_job_ends: list[Callable[[str, str], None]] = []
        """Called with each job that is over, and how it has ended."""
        self._clouds = clouds
        self._is_punctual = is_punctual
        self._retries: dict[str, tuple[str, float]] = {}
        self._statuses: dict[tuple[str, str], str] = {}
        self._unfinished: set[tuple[str, str]] = set()
        self._moved = asyncio.Event()

    @property
    def is_all_over(self) -> bool:
        """Whether nothing on record is unfinished."""
        return not self._unfinished

    @property
    def is_hopeless(self) -> bool:
        """Whether so much is wrong that there is no use in waiting."""
        return len(self.violations) >= VIOLATIONS_MAX

    async def next_move(self) -> None:
        """Until a status has changed."""
        moved = self._moved
        await moved.wait()

    async def reaches(self, run_id: str, status: RunStatus) -> bool:
        """Wait until a run is in this status; False where it ends without having been."""
        while (now := self.ledger.run_status(run_id)) != status:
            if now is None or now.is_finished():
                return False
            await self.next_move()
        return True

    def told(self, who: str, what: str) -> None:
        self.lines.append(Line(_now_s(), who, what))

    def machine_came(self, cloud: str, key: str) -> None:
        self.truth.machines[key] = ExistingMachine(key, cloud, _now_s())
        self.told(f"machine {key}", f"exists in {cloud}")
        self._blame("machines_have_a_row", invariants.machines_have_a_row(key, self.ledger))

    def machine_went(self, cloud: str, key: str) -> None:
        machine = self.truth.machines.pop(key)
        self.told(f"machine {key}", f"is missing from {cloud}")
        self._blame("spending_stops", invariants.spending_stops(machine, self.ledger, _now_s()))

    def job_started(self, key: str, order: JobOrder) -> None:
        run_id, node = self.truth.job_started(key, order)
        self.told(f"machine {key}", f"starts job {order.job_id} (node {node} of {order.run_name})")
        self._blame("jobs_start_once", invariants.jobs_start_once(order.job_id, self.truth))
        self._blame("attempts_do_not_overlap", invariants.attempts_do_not_overlap(run_id, node, self.truth))
        wanted = invariants.jobs_start_while_wanted(order.job_id, run_id, self.ledger)
        self._blame("jobs_start_while_wanted", wanted)
        as_made = invariants.jobs_start_as_they_were_made(order, self.ledger)
        self._blame("jobs_start_as_they_were_made", as_made)
        follows = invariants.attempts_follow_the_revisions(order.job_id, self.ledger)
        self._blame("attempts_follow_the_revisions", follows)

    def job_ended(self, key: str, order: JobOrder, end: str, exit_code: int | None) -> None:
        self.truth.job_ended(order, end, exit_code)
        for hear in self.when_job_ends:
            hear(order.job_id, end)
        self.told(f"machine {key}", f"job {order.job_id} of {order.run_name} {end} {exit_code}")
        if end == "host_failed":
            self.truth.failed_starts.setdefault(key, []).append(_now_s())
            self._blame("no_machine_is_a_black_hole", invariants.no_machine_is_a_black_hole(key, self.truth))

    def link_came(self, key: str) -> None:
        """A server has connected to the agent of a machine."""
        self.truth.links.setdefault(key, []).append(_now_s())
        self._blame("links_last", invariants.links_last(key, self.truth))

    def acts(self, server: str, instance_id: str) -> None:
        """A server does something for an instance."""
        self._blame("only_the_owner_acts", invariants.only_the_owner_acts(server, instance_id, self.ledger))

    def committed(self, server: str) -> None:
        """A server has committed something."""
        notes = self.ledger.new_notes()
        if not notes:
            return
        for note in notes:
            self._check_line(server, note)
        rows = {(note.kind, note.id): note for note in notes if note.source == "row"}  # as the commit left them
        for row in rows.values():
            self._check_move(row)
            self._check_row(row)
        for note in notes:
            if note.source == "asked":
                self._check_asked(note.id)
        self.wake()

    def _check_line(self, server: str, note: Note) -> None:
        match note.source:
            case "event":
                self._check_move(note)
            case "heard":
                self.acts(server, note.id)
            case "scaled":
                self.scaling.decided(note.id)
            case "traffic":
                self.scaling.stored(note.id)

    def database_was_replaced(self) -> None:
        """From now on another file says what is on record; what only the one before knew was never accepted."""
        rows = self.ledger.begin_anew()
        self._statuses = {(row.kind, row.id): row.status for row in rows}
        self._unfinished = {(row.kind, row.id) for row in rows if not invariants.is_final(row)}
        self._retries.clear()
        self.truth.accepted &= {name for name, *_ in self.ledger.runs().values()}

    def wake(self) -> None:
        """Have all who wait for a move look again."""
        self._moved.set()
        self._moved = asyncio.Event()

    def _check_move(self, note: Note) -> None:
        who = note.kind, note.id
        broken = invariants.statuses_move_along_the_table(note, self._statuses.get(who))
        self._blame("statuses_move_along_the_table", broken)
        self._statuses[who] = note.status

    def _check_row(self, note: Note) -> None:
        who, is_final = (note.kind, note.id), invariants.is_final(note)
        is_new = not is_final and who not in self._unfinished
        if is_final:
            self._unfinished.discard(who)
        else:
            self._unfinished.add(who)
        if note.kind == "run":
            self._check_retry(note)
        elif note.kind == "job" and is_final:
            self._check_ended_job(note.id)
        elif note.kind == "job" and (replica := self.ledger.replica(note.id)) is not None:
            self._check_replica(replica, is_new=is_new)
        elif note.kind == "instance":
            self._check_instance(note.id, is_new=is_new, is_final=is_final)

    def _check_retry(self, note: Note) -> None:
        """Databases that are busy may take their time."""
        if note.status == RunStatus.PENDING and (retry := self.ledger.retry_of(note.id)) is not None:
            self._retries[note.id] = retry
        elif (retry := self._retries.pop(note.id, None)) is not None and self._is_punctual:
            name, at_s = retry
            self._blame("retries_come_in_time", invariants.retries_come_in_time(name, _now_s() - at_s))

    def _check_ended_job(self, id: str) -> None:
        job = self.ledger.job(id)
        if job is not None:
            self._blame("ended_jobs_do_not_run", invariants.ended_jobs_do_not_run(job, self.truth))
            self._blame("exit_codes_are_true", invariants.exit_codes_are_true(job, self.truth))

    def _check_replica(self, replica: ReplicaRow, *, is_new: bool) -> None:
        service = self.ledger.service(replica.run_id) if is_new else None
        if service is not None:
            bounded = invariants.replicas_are_bounded(service, self.ledger.replicas(service.id))
            self._blame("replicas_are_bounded", bounded)
            self._blame("rollouts_end", invariants.rollouts_end(service, [replica], _now_s()))
        if replica.status == JobStatus.TERMINATING:
            self._blame("drains_are_awaited", invariants.drains_are_awaited(replica, self.ledger))

    def _check_asked(self, job_id: str) -> None:
        """A job is asked to end."""
        replica = self.ledger.replica(job_id)
        service = None if replica is None else self.ledger.service(replica.run_id)
        if replica is None or service is None:
            return
        self._blame("replicas_die_alone", invariants.replicas_die_alone(service, replica))
        last = invariants.the_last_ready_replica_stays(service, replica, self.ledger.replicas(service.id))
        self._blame("the_last_ready_replica_stays", last)

    def routed(self, job_ids: Iterable[str]) -> None:
        """A data plane sends requests to these jobs."""
        for job_id in job_ids:
            if (replica := self.ledger.replica(job_id)) is not None:
                misled = invariants.requests_go_to_ready_replicas(replica, _now_s())
                self._blame("requests_go_to_ready_replicas", misled)

    def _check_instance(self, id: str, *, is_new: bool, is_final: bool) -> None:
        instance = self.ledger.instance(id)
        if instance is None:
            return
        if instance.status == InstanceStatus.TERMINATING and self._is_punctual:
            self._blame("machines_are_located", invariants.machines_are_located(instance, self._clouds))
        if is_final:
            vain = invariants.launches_in_vain_are_bounded(instance, self.ledger)
            self._blame_all("launches_in_vain_are_bounded", vain)
        if is_new or is_final:
            over = invariants.ended_instances_have_no_machine(instance, self._clouds)
            self._blame("ended_instances_have_no_machine", over)
            self._blame("fleets_keep_their_maximum", invariants.fleets_keep_their_maximum(instance, self.ledger))

    def story(self) -> list[Line]:
        """All that happened, and all that was put on record, in order."""
        events = [Line(at_s, who, what) for at_s, who, what in self.ledger.events()]
        return sorted([*self.lines, *events], key=lambda line: line.at_s)

    async def scan(self) -> None:
        """Look at everything now and then, until cancelled."""
        while True:
            await asyncio.sleep(SCAN_EVERY_S)
            self.look_around()

    def look_around(self) -> None:
        """Ask all rules about what goes on."""
        now_s = _now_s()
        self._blame_all("machines_are_claimed", invariants.machines_are_claimed(self.truth, self.ledger, now_s))
        self._blame_all("nothing_is_stuck", invariants.nothing_is_stuck(self.truth, self.ledger, now_s))
        for service in self.ledger.services():
            late = invariants.rollouts_end(service, self.ledger.replicas(service.id), now_s)
            self._blame("rollouts_end", late)
        self.scaling.look_around()
        for machine in list(self.truth.machines.values()):
            self._blame("spending_stops", invariants.spending_stops(machine, self.ledger, now_s))

    def look_back(self, logs: LogStore) -> None:
        """Ask all rules about what was."""
        self.look_around()
        lost = invariants.accepted_runs_are_on_record(self.truth.accepted, self.ledger)
        self._blame_all("accepted_runs_are_on_record", lost)
        for job in self.ledger.jobs():
            if job.is_finished:
                whole = invariants.logs_are_whole(job, self.truth, logs.size(job.id, "job"))
                self._blame("logs_are_whole", whole)

    def look_at_the_end(self) -> None:
        """Ask whether nothing is left."""
        self._blame_all("everything_ends", invariants.everything_ends(self.truth, self.ledger))

    def _blame_all(self, invariant: str, broken: Iterable[str]) -> None:
        for one in broken:
            self._blame(invariant, one)

    def _blame(self, invariant: str, broken: str | None) -> None:
        if broken is not None:
            self.told("VIOLATION", f"{invariant}: {broken}")
            if len(self.violations) < VIOLATIONS_MAX:
                self.violations.append(Violation(invariant, _now_s(), broken))
                self.wake()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
