"""Whether a failed run is tried again, and when."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from dstack.domain.reasons import retry_event_of
from dstack.protocol.statuses import JobReason

FIRST_DELAY = timedelta(seconds=5)
LONGEST_DELAY = timedelta(minutes=10)
RAN_WELL = timedelta(minutes=10)
"""An attempt that ran this long does not repeat the failure before it."""


HOST_ERRORS_FOR = timedelta(minutes=5)
"""The time for retries of a job that its machine could not start. They need no policy, since nothing of the job has
run."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The events after which a run is retried, and the time for failures in a row."""

    on_events: Collection[str]
    duration: timedelta | None
    """None without limit."""


def failing_since(before: datetime | None, ran_since: datetime | None, now: datetime) -> datetime:
    """Return the time of the first failure in the current row.

    Args:
        before: the same for the failure before; None for the first failure.
        ran_since: the start of the attempt that failed now; None if it never ran.
    """
    ran_well = ran_since is not None and now - ran_since >= RAN_WELL
    return now if before is None or ran_well else before


def retry_at(
    policy: RetryPolicy | None,
    reason: JobReason,
    *,
    since: datetime,
    now: datetime,
    held_until: datetime | None = None,
) -> datetime | None:
    """Return the time of the next start after a failure for `reason`; None to give up.

    The wait is as long as the failures have lasted: the delay doubles with each attempt.

    Args:
        since: when the row of failures began (`failing_since`).
        held_until: until when the run gets no machines (`Launches.held_until`).
    """
    tried_for = [HOST_ERRORS_FOR] if reason is JobReason.HOST_ERROR else []
    if policy is not None and retry_event_of(reason) in policy.on_events:
        tried_for.append(policy.duration or timedelta.max)
    at = max(now + pause_after(since, now), held_until or now)
    return at if any(at - since <= duration for duration in tried_for) else None


def pause_after(since: datetime, now: datetime) -> timedelta:
    """Return the time from a failure to the next start; see `retry_at`."""
    return min(max(FIRST_DELAY, now - since), LONGEST_DELAY)
