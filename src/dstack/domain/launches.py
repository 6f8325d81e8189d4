"""The bound on launches in vain: a run gets so many machines that do not start within an hour, and then waits or ends.

The pauses between attempts bound most loops before. But a gang buys several machines at each attempt, and a job whose
offer is sold out tries the next one without a pause.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from dstack.kit.text import utc_text

WITHIN = timedelta(hours=1)
FAILED_MAX = 6
"""So many machines may fail to start within that time, for each job of the run. They cost money."""
SOLD_OUT_MAX = 100
"""So many offers may prove to be sold out within that time, for each job of the run."""


@dataclass(frozen=True, slots=True)
class Launches:
    """The launches of a run that were in vain, in the hour since the first of them."""

    since: datetime
    failed: int = 0
    """Machines whose launch was not answered, that failed while they booted, or whose agent never answered."""
    sold_out: int = 0
    """Launches without a machine."""

    def held_until(self, jobs: int, now: datetime) -> datetime | None:
        """Return the time until which the run gets no more machines; None where it may get them.

        Args:
            jobs: how many jobs the run has.
        """
        is_over = self.failed >= FAILED_MAX * jobs or self.sold_out >= SOLD_OUT_MAX * jobs
        return self.since + WITHIN if is_over and now - self.since < WITHIN else None

    @property
    def title(self) -> str:
        """The launches in a sentence about their run."""
        failed = f"{self.failed} machines failed to start" if self.failed else ""
        sold_out = f"{self.sold_out} offers were sold out" if self.sold_out else ""
        return f"{' and '.join(filter(None, [failed, sold_out]))} since {utc_text(self.since)}"


def after_failure(before: Launches | None, now: datetime, *, is_sold_out: bool) -> Launches:
    """Return the launches in vain once there was one more.

    Args:
        is_sold_out: whether there was no machine; otherwise it came and did not start.
    """
    if before is None or now - before.since >= WITHIN:
        before = Launches(now)
    return replace(before, failed=before.failed + (not is_sold_out), sold_out=before.sold_out + is_sold_out)


def launches_to_json(launches: Launches | None) -> dict[str, Any] | None:
    """Return launches as a JSON column holds them."""
    if launches is None:
        return None
    return {"since": launches.since.isoformat(), "failed": launches.failed, "sold_out": launches.sold_out}


def launches_of_json(body: Mapping[str, Any] | None) -> Launches | None:
    """Return the launches that `launches_to_json` wrote."""
    return None if body is None else Launches(**{**body, "since": datetime.fromisoformat(body["since"])})
