"""The number of replicas that the traffic of a service needs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dstack.domain.load import Load
from dstack.domain.traffic import HEARD, STEP, History
from dstack.kit.units import duration_text


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


TOLERANCE = 1.1
"""The load of replicas, as a multiple of the target, up to which one more is not added."""
BURST_S = 15.0
BURST = 1.5
"""A burst counts at once where it needs so many times the replicas."""
CHANCE = 2.0
"""Arrivals by chance vary by the root of their number. Those of a burst exceed so many times that."""
DRAIN_S = 180.0
"""The time in which waiting requests are to be worked off."""
BEHIND = 1.5
"""The multiple of the usual requests in flight from which on some of them wait."""
USUAL_S = 600.0
LONGEST_S = 3000.0
"""The longest time for which a load counts: points are kept for an hour."""
IDLE_S = 60.0
"""The shortest time without requests after which there is no traffic."""
SKEW_S = 60.0
"""The greatest difference between the clocks of servers. A time further in the future is wrong."""
AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class _Want:
    """A number of replicas and its reason."""

    replicas: int
    why: str


def reach_s(rules: Rules) -> float:
    """Return the time that histories must go back for `decide`, in seconds."""
    return max(USUAL_S, _memory_s(rules)) + rules.window_s + 2 * SKEW_S


def decide(rules: Rules, scale: Scale, histories: Sequence[History], now: datetime) -> Decision:
    """Return the number of replicas that a service needs.

    Args:
        scale: the decision so far. Its replicas count, whether they are ready or on their way.
        histories: the traffic of the last `reach_s`, one for each data plane.
    """
    load = Load(histories, now.timestamp())
    age_s = (now - scale.since).total_seconds()
    age_s = math.inf if age_s < -SKEW_S else max(0.0, age_s)
    current = min(max(scale.asked, rules.minimum), rules.maximum)
    more, up_s = _more(rules, load, current, age_s)
    if more is not None:
        return Decision(more.replicas, more.why, _again_s(rules, more.replicas, None, rules.down_delay_s))
    fewer, down_s = _fewer(rules, load, current, age_s)
    if fewer is not None:
        return Decision(fewer.replicas, fewer.why, _again_s(rules, fewer.replicas, None, rules.down_delay_s))
    why = scale.why if current == scale.asked else _range_of(rules, current)
    return Decision(current, why, _again_s(rules, current, up_s, down_s))


def _more(rules: Rules, load: Load, current: int, age_s: float) -> tuple[_Want | None, float | None]:
    """Return the larger number that is needed now, and otherwise the time until one may be."""
    if current >= rules.maximum:
        return None, None
    steady = _want(rules, _value(rules, load, load.now, rules.window_s))
    if _is_idle(rules, load):
        steady = _Want(0, "")
    is_free = current == 0 or age_s >= rules.up_delay_s
    wants = [steady] if is_free else []
    burst = _burst(rules, load)
    if burst.replicas >= BURST * current:
        wants.append(burst)
    wants += [_held(rules, load), _behind(rules, load, current)]
    most = max(wants, key=lambda want: want.replicas)
    if most.replicas > current:
        return _Want(min(most.replicas, rules.maximum), most.why), None
    return None, None if is_free or steady.replicas <= current else rules.up_delay_s - age_s


def _fewer(rules: Rules, load: Load, current: int, age_s: float) -> tuple[_Want | None, float | None]:
    """Return the smaller number that is enough, and otherwise the time until one may be."""
    if current <= rules.minimum:
        return None, None
    if _is_idle(rules, load):
        return _Want(rules.minimum, f"no requests for {duration_text(int(_idle_s(rules)))}"), None
    idle_in_s = load.busy_until + _idle_s(rules) - load.now
    if age_s < rules.down_delay_s:
        return None, min(rules.down_delay_s - age_s, idle_in_s)
    largest, left_s = _largest(rules, load, current)
    if left_s is not None:
        return None, min(left_s, idle_in_s)
    wants = [largest, _burst(rules, load), _held(rules, load), _behind(rules, load, 0), _least(rules, load)]
    most = max(wants, key=lambda want: want.replicas)
    if most.replicas >= current:
        return None, min(HEARD.total_seconds(), idle_in_s)
    return _Want(max(most.replicas, rules.minimum), most.why), None


def _largest(rules: Rules, load: Load, current: int) -> tuple[_Want, float | None]:
    """Return the largest want of the last time; with the time until it is forgotten where it needs all replicas."""
    memory_s, step_s = _memory_s(rules), STEP.total_seconds()
    values = [_value(rules, load, load.now, rules.window_s)]
    if _want(rules, values[0]).replicas >= current:
        return _want(rules, values[0]), memory_s or step_s
    at = load.now // step_s * step_s
    while at > load.now - memory_s:
        values.append(_value(rules, load, at, rules.window_s))
        if _want(rules, values[-1]).replicas >= current:
            return _want(rules, values[-1]), at + memory_s - load.now
        at -= step_s
    return _want(rules, max(values)), None


def _burst(rules: Rules, load: Load) -> _Want:
    value = _value(rules, load, load.now, BURST_S)
    if rules.metric == "rps":
        arrived = value * BURST_S
        value = max(0.0, arrived - CHANCE * math.sqrt(arrived)) / BURST_S
    return _want(rules, value)


def _held(rules: Rules, load: Load) -> _Want:
    if not load.held:
        return _Want(0, "")
    value = _value(rules, load, load.now, rules.window_s)
    if rules.metric == "rps":
        value += load.held / DRAIN_S
    requests = "1 request waits" if load.held == 1 else f"{load.held} requests wait"
    return _Want(max(1, _want(rules, value).replicas), f"{requests} for a replica")


def _behind(rules: Rules, load: Load, current: int) -> _Want:
    """Return the want that works off waiting requests, where more are in flight than usual for those that end.

    Args:
        current: a number that does not matter, nor a smaller one.
    """
    if rules.metric != "rps":
        return _Want(0, "")
    rate = _value(rules, load, load.now, rules.window_s)
    if _want(rules, rate + min(rate, load.in_flight / DRAIN_S)).replicas <= current:
        return _Want(0, "")
    usual = _usual_in_flight(rules, load)
    if usual is None or load.in_flight <= BEHIND * usual:
        return _Want(0, "")
    late = load.in_flight - usual
    replicas = _want(rules, rate + min(rate, late / DRAIN_S)).replicas
    return _Want(replicas, f"{rate:.1f} requests/s and {late:.0f} that wait, target {rules.target:g} each")


def _usual_in_flight(rules: Rules, load: Load) -> float | None:
    """Return the number in flight that there would be without waiting, by the shortest time of late; None if unknown."""
    step_s = STEP.total_seconds()
    shortest_s = math.inf
    for number in range(int(USUAL_S / step_s)):
        at = load.now - number * step_s
        ended = load.ended(at, rules.window_s)
        if ended >= 10:
            shortest_s = min(shortest_s, load.in_flight_at(at) * rules.window_s / ended)
    if shortest_s == math.inf:
        return None
    return shortest_s * load.ended(load.now, rules.window_s) / rules.window_s


def _least(rules: Rules, load: Load) -> _Want:
    """Return the number that requests in flight need."""
    if rules.metric == "concurrency":
        return _Want(math.ceil(load.in_flight / rules.target), _shown(rules, load.in_flight))
    one = "1 request" if load.in_flight == 1 else f"{load.in_flight} requests"
    return _Want(1, f"{one} in flight" if load.in_flight else "there were requests of late")


def _value(rules: Rules, load: Load, at: float, window_s: float) -> float:
    """Return the metric, averaged over a window that ends at a time."""
    if rules.metric == "concurrency":
        return load.mean_in_flight(at, window_s)
    return load.arrived(at, window_s) / window_s


def _want(rules: Rules, value: float) -> _Want:
    load = value / rules.target
    replicas = math.ceil(load)
    if replicas > 1 and load <= TOLERANCE * (replicas - 1):
        replicas -= 1
    return _Want(replicas, _shown(rules, value))


def _shown(rules: Rules, value: float) -> str:
    if rules.metric == "concurrency":
        return f"{value:.0f} in flight, target {rules.target:g} each"
    return f"{value:.1f} requests/s, target {rules.target:g} each"


def _range_of(rules: Rules, replicas: int) -> str:
    return f"at {'least' if replicas == rules.minimum else 'most'} {replicas}"


def _is_idle(rules: Rules, load: Load) -> bool:
    return load.now >= load.busy_until + _idle_s(rules)


def _idle_s(rules: Rules) -> float:
    return max(rules.down_delay_s, IDLE_S)


def _memory_s(rules: Rules) -> float:
    return min(rules.down_delay_s, LONGEST_S)


def _again_s(rules: Rules, asked: int, up_s: float | None, down_s: float | None) -> float | None:
    times = [time for time in (up_s, down_s if asked > rules.minimum else None) if time is not None]
    return max(AGAIN_S, min(times)) if times else None


def scale_to_json(scale: Scale | None) -> dict[str, Any] | None:
    """Return a decision as a JSON column holds it."""
    if scale is None:
        return None
    return {"asked": scale.asked, "since": scale.since.isoformat(), "why": scale.why}


def scale_of_json(body: Mapping[str, Any] | None) -> Scale | None:
    """Return the decision that `scale_to_json` wrote."""
    return None if body is None else Scale(**{**body, "since": datetime.fromisoformat(body["since"])})
