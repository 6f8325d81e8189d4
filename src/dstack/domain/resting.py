"""A machine on which start after start fails for reasons of its own rests for a while, each time for longer.

Only failures in a row count: a job that runs there shows that the machine works. A failure during the rest does not
count, since its job was placed before.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from dstack.domain.objects import Instance

FAILED_STARTS_MAX = 3
"""So many in a row, and the machine rests."""
FIRST_REST = timedelta(seconds=10)
LONGEST_REST = timedelta(minutes=5)
DOUBLINGS_MAX = 10


def after_failed_start(instance: Instance, why: str, now: datetime) -> Instance:
    """The machine once a start has failed there for the machine's own reasons."""
    if instance.rests_until is not None or not instance.takes_jobs:
        return instance
    failed = replace(instance, failed_starts=instance.failed_starts + 1, detail=why)
    if failed.failed_starts < FAILED_STARTS_MAX:
        return failed
    doublings = min(failed.failed_starts - FAILED_STARTS_MAX, DOUBLINGS_MAX)
    return replace(failed, rests_until=now + min(FIRST_REST * 2**doublings, LONGEST_REST))


def after_good_start(instance: Instance) -> Instance:
    """The machine once a job runs there."""
    if instance.failed_starts == 0:
        return instance
    return replace(instance, failed_starts=0, rests_until=None, detail="")
