"""The cost of a service: the time that its replicas ran, and the prices of their machines."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Use:
    """The time that one attempt of a job ran.

    It begins with the start of the job. The time in which its machine boots or pulls its image is not on record, nor is
    the idle time after the job. A cloud's bill has both.
    """

    started_at: datetime
    ended_at: datetime | None
    """None while it runs."""
    price: float
    """The price of its whole machine, in US dollars an hour."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of some uses."""

    hours: float
    dollars: float
    dollars_per_hour: float
    """The price of those that go on."""


def cost_of(uses: Iterable[Use], now: datetime) -> Cost:
    """Return the cost until now.

    Examples:
        >>> noon = datetime(2030, 1, 1, 12)
        >>> cost_of([Use(noon, noon + HOUR / 2, 3.0), Use(noon, None, 2.0)], noon + HOUR)
        Cost(hours=1.5, dollars=3.5, dollars_per_hour=2.0)
    """
    hours = dollars = per_hour = 0.0
    for use in uses:
        lasted = max(((use.ended_at or now) - use.started_at) / HOUR, 0.0)  # the clocks of servers differ
        hours += lasted
        dollars += lasted * use.price
        per_hour += use.price if use.ended_at is None else 0.0
    return Cost(hours, dollars, per_hour)
