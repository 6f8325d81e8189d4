"""Whether a failed run is tried again, and when."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from dstack.domain.reasons import retry_event_of
from dstack.protocol.statuses import JobReason

FIRST_DELAY = timedelta(seconds=5)
LONGEST_DELAY = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which events start a run again, and for how long after it was submitted."""

    on_events: Collection[str]
    duration: timedelta | None
    """None for ever."""


def retry_at(
    policy: RetryPolicy | None, reason: JobReason, *, attempt: int, submitted_at: datetime, now: datetime
) -> datetime | None:
    """When to start again after attempt number `attempt` (from 1) failed for `reason`; None to give up.

    The delay doubles with each attempt.
    """
    if policy is None or retry_event_of(reason) not in policy.on_events:
        return None
    at = now + min(FIRST_DELAY * 2 ** min(attempt - 1, 10), LONGEST_DELAY)
    return at if policy.duration is None or at - submitted_at <= policy.duration else None
