"""The number of replicas that the traffic of a service needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dstack.domain.traffic import History


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of a service's configuration that concerns its scaling."""

    metric: str
    """`rps`: requests a second; `concurrency`: requests in flight."""
    target: float
    """The value of the metric for each replica."""
    minimum: int
    maximum: int
    up_delay_s: float
    """The time between a decision and a later one that adds replicas. One without replicas starts them at once."""
    down_delay_s: float
    """The time for which fewer replicas must have been enough before some are removed."""
    window_s: float
    """The time over which the metric is averaged."""

    @property
    def looks_back(self) -> timedelta:
        """Return the time of the traffic on which a decision depends."""
        return timedelta(seconds=self.down_delay_s + 2 * self.window_s)


@dataclass(frozen=True, slots=True)
class Scale:
    """The latest decision about the number of replicas of a service."""

    asked: int
    since: datetime
    why: str = ""
    """The reason with its numbers, for people; empty before the first decision."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The number of replicas that a service needs from now on."""

    asked: int
    why: str
    """Its reason with the numbers, such as `27.4 requests/s, target 10 each`."""
    again_s: float | None = None
    """The time until another decision may follow without new traffic; None for never."""


def decide(rules: Rules, scale: Scale, histories: Sequence[History], now: datetime) -> Decision:
    """Return the number of replicas that a service needs.

    Args:
        scale: the decision so far.
        histories: the traffic of the last minutes, one for each data plane.
    """
    return Decision(scale.asked, scale.why)


def scale_to_json(scale: Scale | None) -> dict[str, Any] | None:
    """Return a decision as a JSON column holds it."""
    if scale is None:
        return None
    return {"asked": scale.asked, "since": scale.since.isoformat(), "why": scale.why}


def scale_of_json(body: Mapping[str, Any] | None) -> Scale | None:
    """Return the decision that `scale_to_json` wrote."""
    return None if body is None else Scale(**{**body, "since": datetime.fromisoformat(body["since"])})
