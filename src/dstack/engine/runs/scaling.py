"""The number of replicas of a service follows its traffic."""

from dataclasses import replace
from datetime import timedelta

from dstack.domain.autoscaling import Scale, decide
from dstack.domain.objects import Job, Run, RunView
from dstack.domain.replicas import Replicas, number_at_first
from dstack.domain.sizes import rules_of
from dstack.domain.specs import configuration_in
from dstack.domain.traffic import HEARD
from dstack.protocol.statuses import JobReason, JobStatus


def scaled(view: RunView) -> tuple[Run, timedelta | None]:
    """Return a service with the number of replicas that its traffic needs, and the time until the next look."""
    run, scale, now = view.run, view.run.scale, view.now
    rules = rules_of(configuration_in(run.current))
    if rules is None:
        return (run if scale is None else replace(run, scale=None)), None
    if scale is None:  # it begins with the replicas that it has
        return replace(run, scale=Scale(number_at_first(rules, view.jobs), now)), None
    decision = decide(rules, scale, view.traffic, now)
    age = HEARD if view.listens_since is None else now - view.listens_since
    if decision.asked < scale.asked and timedelta(0) <= age < HEARD:  # silence means nothing yet
        return run, HEARD - age
    if decision.asked != scale.asked:
        run = replace(run, scale=Scale(decision.asked, now, decision.why))
    return run, None if decision.again_s is None else timedelta(seconds=decision.again_s)


def called_back(run: Run, replicas: Replicas) -> tuple[Replicas, tuple[Job, ...]]:
    """Return the replicas with those called back that are wanted again while they finish their requests.

    They are ready at once, unlike new ones.
    """
    scaled_in = (job for job in replicas.leaving if job.stop_asked is JobReason.SCALED_DOWN)
    able = [job for job in scaled_in if job.deployment == run.deployment and _finishes(job)]
    chosen = able[: replicas.missing]
    back = tuple(replace(job, stop_asked=None, draining_since=None, drained_by=()) for job in chosen)
    leaving = tuple(job for job in replicas.leaving if job not in chosen)
    return replace(replicas, current=(*replicas.current, *back), leaving=leaving), back


def _finishes(job: Job) -> bool:
    return job.status is JobStatus.RUNNING and job.draining_since is not None and job.lost_at is None
