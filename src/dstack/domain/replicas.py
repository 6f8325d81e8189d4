"""The replicas of a service: which of them stay, and which take their places."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dstack.domain.autoscaling import Rules
from dstack.domain.objects import Job, Run
from dstack.domain.reasons import UNWANTED
from dstack.domain.retries import failing_since, pause_after, retry_at
from dstack.domain.rollouts import NO_ROOM_AFTER, ROLLOUT_FOR, ROLLOUT_TRIES
from dstack.domain.sizes import most_replicas_of, replicas_of, rules_of
from dstack.domain.specs import configuration_in, retry_policy_of
from dstack.kit.units import duration_text
from dstack.protocol.statuses import JobReason, JobStatus, cause_text


@dataclass(frozen=True, slots=True)
class Failure:
    """A replica that has ended although the service wants it."""

    job: Job
    since: datetime
    """When the row of failures began."""
    count: int
    """How many attempts in that row have failed."""
    again_at: datetime | None
    """When the next attempt starts; None for never."""

    @property
    def order(self) -> tuple[bool, datetime]:
        """The key by which failures are sorted: those with a next attempt first, the earliest of them before."""
        return self.again_at is None, self.again_at or self.since


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of a service at one moment."""

    asked: int
    alive_max: int
    """How many may live at a time."""
    current: tuple[Job, ...]
    """Of the present deployment: those that are to stay."""
    old: tuple[Job, ...]
    """Of another deployment: those that are to be replaced."""
    leaving: tuple[Job, ...]
    """Those that have not ended, and that no attempt follows: they drain, or end."""
    dying: tuple[Job, ...]
    """Of the present deployment: those that end by themselves."""
    failures: tuple[Failure, ...]
    """Of the present deployment, sorted by `Failure.order`."""

    @property
    def alive(self) -> int:
        """The number of all that have not ended."""
        return sum(map(len, (self.current, self.old, self.leaving, self.dying)))

    @property
    def ready(self) -> int:
        """The number of those that stay for now and are ready."""
        return count_ready((*self.current, *self.old))

    @property
    def in_places(self) -> Sequence[Failure]:
        """The failures in whose places no other replica is wanted. Where fewer are asked for, some have none."""
        return self.failures[: max(self.asked - len(self.current) - len(self.dying), 0)]

    @property
    def missing(self) -> int:
        """The number of places without a replica and without a failure."""
        return max(self.asked - len(self.current) - len(self.dying) - len(self.in_places), 0)

    @property
    def room(self) -> int:
        """The number of those that may begin now, whatever ends meanwhile."""
        return max(self.alive_max - self.alive, 0)

    def waits_for_room(self, now: datetime) -> timedelta | None:
        """Return the time until it is clear that a replica finds no room; zero where it is, None where all have one."""
        ages = [now - job.status_since for job in self.current if job.status is JobStatus.SUBMITTED]
        if any(one.job.reason is JobReason.NO_CAPACITY for one in self.failures):
            return timedelta(0)
        return max(NO_ROOM_AFTER - max(ages), timedelta(0)) if ages else None


def count_ready(jobs: Iterable[Job]) -> int:
    """Return the number of ready ones."""
    return sum(job.is_ready for job in jobs)


def number_at_first(rules: Rules, jobs: Iterable[Job]) -> int:
    """Return the number of replicas with which a service begins to scale: those that it has, within its range."""
    alive = sum(not job.status.is_finished() and not is_unwanted(job) for job in jobs)
    return min(max(alive, rules.minimum), rules.maximum)


def is_unwanted(job: Job) -> bool:
    """Return whether a service wants no more of a replica."""
    return job.stop_asked in UNWANTED


def replicas_in(run: Run, jobs: Iterable[Job], revised_at: datetime | None = None) -> Replicas:
    """Return the replicas of a service.

    Args:
        jobs: the latest attempt of each.
        revised_at: the time of the current revision. Earlier failures do not count.
    """
    current, old, leaving, dying, failures = list[Job](), list[Job](), list[Job](), list[Job](), list[Failure]()
    for job in jobs:
        if is_unwanted(job):
            if not job.status.is_finished():
                leaving.append(job)
        elif job.finished_at is not None:
            if job.deployment == run.deployment and (revised_at is None or job.finished_at >= revised_at):
                failures += _counted(run, failure_of(run, job))
        elif job.status is JobStatus.TERMINATING or job.stop_asked is not None:
            (dying if job.deployment == run.deployment else leaving).append(job)
        else:
            (current if job.deployment == run.deployment else old).append(job)
    failures.sort(key=lambda one: one.order)
    asked = replicas_of(run)
    return Replicas(
        asked, _alive_max(run, asked), tuple(current), tuple(old), tuple(leaving), tuple(dying), tuple(failures)
    )


def _counted(run: Run, failure: Failure) -> Iterator[Failure]:
    """Yield a failure, unless the service has scaled since: then a place that was given up is free again."""
    ended_at = failure.job.finished_at
    is_past = run.scale is not None and ended_at is not None and ended_at < run.scale.since
    if failure.again_at is not None or not is_past:
        yield failure


def _alive_max(run: Run, asked: int) -> int:
    """Return how many replicas may live at a time: those asked for and the one of an update.

    Of a service that scales, those that finish their requests count too. Its maximum is never exceeded but by the one
    of an update.
    """
    configuration = configuration_in(run.current)
    if rules_of(configuration) is None:
        return asked + 1
    return most_replicas_of(configuration) + (run.rollout is not None)


def failure_of(run: Run, job: Job) -> Failure:
    """Return what becomes of a replica that has ended. All follows from its end, so that each look finds the same."""
    ended_at, reason = job.finished_at, job.reason
    assert ended_at is not None and reason is not None
    since = failing_since(job.failing_since, job.started_at, ended_at)
    before = 0 if since == ended_at else job.failures
    count = before + (reason is not JobReason.NO_CAPACITY)
    held = None if job.launches is None else job.launches.held_until(1, ended_at)
    if job.stop_asked is JobReason.SERVER:  # the run of an earlier version ended it beside another one that failed
        return Failure(job, since, count, ended_at)
    if run.rollout is not None and run.rollout.back_to is not None:
        return Failure(job, since, count, max(ended_at + pause_after(since, ended_at), held or ended_at))
    policy = retry_policy_of(configuration_in(run.current))
    return Failure(job, since, count, retry_at(policy, reason, since=since, now=ended_at, held_until=held))


def why_back(run: Run, replicas: Replicas, now: datetime) -> str | None:
    """Return why a rollout has failed; None while it goes on, or where there is no way back."""
    if run.rollout is None or run.rollout.back_to is None:
        return None
    for one in replicas.failures:
        if one.count >= ROLLOUT_TRIES:
            cause = cause_text(one.job.reason, one.job.detail)
            return f"replica {one.job.replica} failed {one.count} times in a row: {cause}"
    for job in replicas.current:
        if not job.is_ready and job.unready_since is not None and now - job.unready_since >= ROLLOUT_FOR:
            late = f"replica {job.replica} was not ready within {duration_text(int(ROLLOUT_FOR.total_seconds()))}"
            return ": ".join(filter(None, [late, unready_text(job)]))
    return None


def unready_text(job: Job) -> str:
    """Return why a replica that runs is not ready, as its agent reports."""
    return "" if job.report is None else job.report.unready_reason


def is_complete(replicas: Replicas) -> bool:
    """Return whether a rollout has ended: no old replica is left, and as many are ready as can be."""
    lost = sum(one.again_at is None for one in replicas.failures)
    return not replicas.old and count_ready(replicas.current) + lost >= replicas.asked
