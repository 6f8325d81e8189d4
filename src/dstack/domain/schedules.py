"""When a run with a schedule starts next."""

from collections.abc import Sequence
from datetime import datetime

from cronsim import CronSim


def next_start(cron: Sequence[str], after: datetime) -> datetime | None:
    """The first time after `after` that any of the expressions names; None where none ever does.

    Examples:
        >>> from datetime import UTC
        >>> next_start(["0 8 * * *", "30 7 * * *"], datetime(2026, 1, 1, 12, tzinfo=UTC)).isoformat()
        '2026-01-02T07:30:00+00:00'
    """
    starts = [start for line in cron if (start := next(CronSim(line, after), None)) is not None]
    return min(starts, default=None)
