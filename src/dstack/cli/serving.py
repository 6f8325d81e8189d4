"""A service on its way to readiness, its addresses, and its traffic in short texts."""

from typing import TYPE_CHECKING

from dstack.cli import following, words
from dstack.protocol.statuses import JobReason, JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from dstack.api import Run
    from dstack.protocol.services import CostView, ScalingView, ServiceView, TrafficView
    from dstack.protocol.views import JobView, RunView

ON_ITS_WAY = (JobStatus.PROVISIONING, JobStatus.PULLING, JobStatus.RUNNING)
LEFT = (JobReason.SCALED_DOWN, JobReason.REPLACED)
"""The reasons of a replica that has left its place to another one, or to none."""
METRICS = {"rps": "requests/s", "concurrency": "requests in flight"}
"""The metrics of scaling, for people."""
TAIL_LINES, TAIL_BYTES = 20, 16 << 10
"""The shown end of the output of a replica that has failed."""


def follow(run: "Run", *, shows_output: bool = True) -> int:
    """Follow a service until it is ready, or has ended; return the exit code for the command.

    Args:
        run: the service.
        shows_output: whether to write its addresses, or the end of a failed replica's output, to stdout.
    """
    revision = run.view.revision
    try:
        following.show_until(run, lambda now: now.status.is_finished() or is_settled(now.view), progress_text)
    except KeyboardInterrupt:
        return following.interrupted(run)
    if not run.status.is_finished():
        words.say(f"{run.name}: {replicas_text(run.view)}")
        if shows_output:
            show_addresses(run)
        if run.view.revision == revision:
            return 0
        words.say(f"{run.name}: {run.detail or f'revision {run.view.revision} has taken the place of {revision}'}")
        return following.EXIT_ERROR
    failed = _failed_job(run.view)
    if shows_output and failed is not None:
        words.say(f"The last output of {run.name} (replica {failed.replica}):")
        words.show_bytes(_tail(run, failed))
    following.ended(run)
    return following.EXIT_ERROR


def is_settled(view: "RunView") -> bool:
    """Return whether a replica is ready, and all others are too, or wait for a machine.

    A service that needs no replica now has nothing to wait for.
    """
    ready, asked = view.replicas_ready or 0, view.replicas_asked or 0
    if (asked and not ready) or (view.service is not None and view.service.is_rolling):
        return False
    coming = sum(job.status in ON_ITS_WAY and not job.draining for job in view.jobs)
    in_places = sum(job.reason not in LEFT and not job.draining for job in view.jobs)
    return ready >= min(asked, coming) and in_places >= asked


def progress_text(run: "Run") -> str:
    """Return how far a service is."""
    view, service = run.view, run.view.service
    if service is None or not any(job.status is JobStatus.RUNNING for job in view.jobs):
        return following.waiting_text(run, 1 + max((job.attempt for job in view.jobs), default=0))
    if service.is_rolling and run.detail:
        return f"{run.name}: {run.detail}"
    waits = f": {service.waits_for}" if service.waits_for else ""
    return f"{run.name}: {replicas_text(view)}{waits}"


def replicas_text(view: "RunView") -> str:
    """Return how many of a service's replicas are ready, and how many wait for a machine.

    Examples:
        `1 of 2 replicas ready, 1 waits for a machine`, `no replica runs; the first request starts one`
    """
    ready, asked = view.replicas_ready or 0, view.replicas_asked or 0
    if not asked:
        which = "next" if view.jobs else "first"
        is_scaled = view.service is not None and view.service.scaling is not None
        return f"no replica runs{f'; the {which} request starts one' if is_scaled else ' (`replicas: 0`)'}"
    waiting = sum(job.status is JobStatus.SUBMITTED for job in view.jobs)
    waits = f", {waiting} {'waits' if waiting == 1 else 'wait'} for a machine" if waiting else ""
    return f"{ready} of {words.counted(asked, 'replica')} ready{waits}"


def show_addresses(run: "Run") -> None:
    """Write the addresses of a service to stdout, and the hints around them to stderr."""
    service = run.view.service
    if service is None:
        return
    words.show(addresses_text(service))
    if service.auth:
        words.say(
            "Requests need the token of a project member, in the header `Authorization: Bearer TOKEN`; "
            "`dstack user create-token NAME` makes one"
        )
    words.say(f"`dstack logs {run.name}` follows its output, `dstack stop {run.name}` ends it")


def addresses_text(service: "ServiceView") -> str:
    """Return the lines with the addresses of a service."""
    lines = [f"URL    {service.url}"]
    if service.model is not None:
        lines.append(f"Model  {service.model.name} at {service.model.url}")
    return "\n".join(lines)


def _failed_job(view: "RunView") -> "JobView | None":
    failed = (job for job in view.jobs if job.status is JobStatus.FAILED and job.exit_code is not None)
    return min(failed, key=lambda job: job.finished_at or job.submitted_at, default=None)


def _tail(run: "Run", job: "JobView") -> "Iterator[bytes]":
    end = b""
    for chunk in run.attempt_logs(job.attempt, replica_num=job.replica, job_num=job.node):
        end = (end + chunk)[-TAIL_BYTES:]
    yield b"".join(end.splitlines(keepends=True)[-TAIL_LINES:])


def range_text(scaling: "ScalingView") -> str:
    """Return the range of a service's replicas.

    Examples:
        `0..4`
    """
    return f"{scaling.minimum}..{scaling.maximum}"


def rule_text(metric: str, target: float) -> str:
    """Return the rule by which a service scales.

    Examples:
        >>> rule_text("rps", 10.0), rule_text("concurrency", 2.5)
        ('by requests/s, target 10 each', 'by requests in flight, target 2.5 each')
    """
    return f"by {METRICS.get(metric, metric)}, target {target:g} each"


def decision_text(asked: int, scaling: "ScalingView", now: "datetime") -> str:
    """Return the latest decision about a service's replicas, and their range.

    Examples:
        `3 replicas since 12:01:30: 27.4 requests/s, target 10 each; range 0..4`
    """
    at = "" if scaling.since is None else f" since {words.clock(scaling.since, now)}"
    if scaling.why:
        return f"{words.counted(asked, 'replica')}{at}: {scaling.why}; range {range_text(scaling)}"
    rule = rule_text(scaling.metric, scaling.target)
    return f"{words.counted(asked, 'replica')}{at}; range {range_text(scaling)}, {rule}"


def cost_text(cost: "CostView") -> str:
    """Return the cost of a service so far, and its present price.

    Examples:
        `41.2 replica-hours, $82.40 since its submission; $6 an hour now`
    """
    hours = f"{cost.replica_hours:.1f}" if cost.replica_hours >= 10 else f"{round(cost.replica_hours, 3):g}"
    dollars = f"${cost.dollars:,.2f}" if cost.dollars >= 1 else words.price(cost.dollars)
    return f"{hours} replica-hours, {dollars} since its submission; {words.price(cost.dollars_per_hour)} an hour now"


def in_flight_text(traffic: "TrafficView") -> str:
    """Return the number of requests in flight, and of those that wait for a replica.

    Examples:
        `12`, `12 (3 wait)`
    """
    waiting = f" ({traffic.held} {'waits' if traffic.held == 1 else 'wait'})" if traffic.held else ""
    return f"{traffic.in_flight}{waiting}"


def latency(seconds: float | None) -> str:
    """Return a latency in milliseconds or seconds.

    Examples:
        >>> latency(0.0123), latency(2.5), latency(None)
        ('12 ms', '2.5 s', '-')
    """
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def rate(per_s: float) -> str:
    """Return a rate with two or three digits.

    Examples:
        >>> rate(0), rate(0.0166), rate(2.34), rate(1234.5)
        ('0', '0.02', '2.3', '1234')
    """
    if per_s == 0:
        return "0"
    return f"{per_s:.2f}" if per_s < 1 else f"{per_s:.1f}" if per_s < 100 else f"{per_s:.0f}"
