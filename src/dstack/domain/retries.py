"""Whether a failed run is tried again, and when."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from dstack.domain.reasons import retry_event_of
from dstack.protocol.statuses import JobReason

FIRST_DELAY = timedelta(seconds=5)
LONGEST_DELAY = timedelta(minutes=10)
RAN_WELL = timedelta(minutes=10)
"""An attempt that ran this long is no repetition of the failure before it."""


HOST_ERRORS_FOR = timedelta(minutes=5)
"""For so long a job is tried again that its machine could not start, for reasons of the machine's own: also where no
policy asks for it, since nothing of the job has run."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which events start a run again, and for how long it is tried in vain."""

    on_events: Collection[str]
    duration: timedelta | None
    """None for ever."""


def failing_since(before: datetime | None, ran_since: datetime | None, now: datetime) -> datetime:
    """When the row of failures began that ends just now.

    Args:
        before: when the row began that the failure before belonged to; None where there was none.
        ran_since: since when the attempt that failed just now had run; None where it never ran.
    """
    ran_well = ran_since is not None and now - ran_since >= RAN_WELL
    return now if before is None or ran_well else before


def retry_at(policy: RetryPolicy | None, reason: JobReason, *, since: datetime, now: datetime) -> datetime | None:
    """When to start again after a failure for `reason`; None to give up.

    As long is waited as has been tried in vain: the delay doubles with each attempt.

    Args:
        since: when the row of failures began (`failing_since`).
    """
    tried_for = [HOST_ERRORS_FOR] if reason is JobReason.HOST_ERROR else []
    if policy is not None and retry_event_of(reason) in policy.on_events:
        tried_for.append(policy.duration or timedelta.max)
    at = now + min(max(FIRST_DELAY, now - since), LONGEST_DELAY)
    return at if any(at - since <= duration for duration in tried_for) else None
