"""The number of replicas that the traffic of a service needs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
"""The load of replicas, as a multiple of the target, up to which they do without one more."""
BURST_S = 15.0
BURST = 1.5
"""A burst counts at once if its load is so many times the target of all replicas."""
CHANCE = 2.0
"""A number of requests varies by its root. A surprising one counts less so many times the root."""
DRAIN_S = 120.0
"""The time in which waiting requests are to be worked off."""
BEHIND = 1.5
"""The multiple of the usual requests in flight from which on some of them wait."""
USUAL_S = 600.0
"""The time in which there were usual requests in flight."""
COUNTED = 10
"""The least number of ended requests that show how long one takes."""
LONGEST_S = 3000.0
"""The longest time for which a load counts, since points are kept for an hour."""
IDLE_S = 15.0
"""The shortest time without requests after which there is no traffic: reports of many services are stored late."""
SKEW_S = 60.0
"""The greatest difference between the clocks of servers. A time further in the future is wrong."""
AGAIN_S = 1.0
"""The shortest time between two decisions."""


@dataclass(frozen=True, slots=True)
class _Want:
    """A number of replicas and its reason."""

    replicas: int
    why: str


NO_WANT = _Want(0, "")


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
    want = _more(rules, load, current, age_s) or _fewer(rules, load, current, age_s)
    if want is None:
        want = _Want(current, scale.why if current == scale.asked else _range_of(rules, current))
    age_s = age_s if want.replicas == scale.asked else 0.0
    return Decision(want.replicas, want.why, _again_s(rules, load, want.replicas, age_s))


def _more(rules: Rules, load: Load, current: int, age_s: float) -> _Want | None:
    """Return a larger number if it is needed now."""
    if current >= rules.maximum:
        return None
    wants = [_held(rules, load), _behind(rules, load, current)]
    if current == 0 or age_s >= rules.up_delay_s:
        wants.append(_steady(rules, load))
    if (burst := _burst(rules, load)) >= BURST * current * rules.target:
        wants.append(_want(rules, burst))
    most = max(wants, key=_number)
    return _Want(min(most.replicas, rules.maximum), most.why) if most.replicas > current else None


def _fewer(rules: Rules, load: Load, current: int, age_s: float) -> _Want | None:
    """Return a smaller number if it is enough."""
    if current <= rules.minimum:
        return None
    if _idle_in_s(rules, load) <= 0:
        return _Want(rules.minimum, f"no requests for {duration_text(int(_idle_s(rules)))}")
    if age_s < rules.down_delay_s or _needed_for_s(rules, load, current) is not None:
        return None
    past = list(_past(rules, load))
    largest = max((want for _, want in past), key=_number)
    begin = load.now - _memory_s(rules) + rules.window_s
    later = [want.replicas for at, want in past if at > begin]
    if later and max(later) < largest.replicas:
        return None  # it falls further within the window, and each change delays the next one
    wants = [largest, _least(rules, load), _held(rules, load), _behind(rules, load, 0)]
    wants.append(_want(rules, _burst(rules, load)))
    most = max(wants, key=_number)
    return _Want(max(most.replicas, rules.minimum), most.why) if most.replicas < current else None


def _again_s(rules: Rules, load: Load, asked: int, age_s: float) -> float | None:
    """Return the time until another decision may follow without new traffic."""
    times = []
    if age_s < rules.up_delay_s and asked < min(rules.maximum, _steady(rules, load).replicas):
        times.append(rules.up_delay_s - age_s)
    if asked > rules.minimum:
        fewer_in_s = rules.down_delay_s - age_s
        if fewer_in_s <= 0:
            fewer_in_s = _needed_for_s(rules, load, asked) or HEARD.total_seconds()
        times.append(min(fewer_in_s, _idle_in_s(rules, load)))
    return max(AGAIN_S, min(times)) if times else None


def _past(rules: Rules, load: Load) -> Iterator[tuple[float, _Want]]:
    """Yield the numbers that the traffic of late needed, from the latest on, each with its time."""
    step_s = STEP.total_seconds()
    at = load.now
    while at > load.now - _memory_s(rules):
        yield at, _want(rules, _value(rules, load, at, rules.window_s))
        at = math.ceil(at / step_s - 1) * step_s


def _needed_for_s(rules: Rules, load: Load, replicas: int) -> float | None:
    """Return the time for which the traffic of late still needs so many replicas; None if it needs fewer."""
    at = next((at for at, want in _past(rules, load) if want.replicas >= replicas), None)
    return None if at is None else at + _memory_s(rules) - load.now


def _steady(rules: Rules, load: Load) -> _Want:
    if _idle_in_s(rules, load) <= 0:
        return NO_WANT
    return _want(rules, _value(rules, load, load.now, rules.window_s))


def _burst(rules: Rules, load: Load) -> float:
    """Return the metric of some seconds, less its variation by chance."""
    value = _value(rules, load, load.now, BURST_S)
    counted_s = 1.0 if rules.metric == "concurrency" else BURST_S
    return max(0.0, value - CHANCE * math.sqrt(value / counted_s))


def _held(rules: Rules, load: Load) -> _Want:
    """Return the number that starts for waiting requests, and works them off."""
    if not load.held:
        return NO_WANT
    value = _value(rules, load, load.now, rules.window_s)
    if rules.metric == "rps":
        value += load.held / DRAIN_S
    requests = "1 request waits" if load.held == 1 else f"{load.held} requests wait"
    return _Want(max(1, _want(rules, value).replicas), f"{requests} for a replica")


def _behind(rules: Rules, load: Load, ignored: int) -> _Want:
    """Return the number that works off requests which wait at replicas: there are more in flight than usual.

    They need at most as much as those that arrive, since long streams look like them.

    Args:
        ignored: a number up to which there is no answer, since it costs time.
    """
    if rules.metric == "concurrency":
        return NO_WANT  # the metric counts them
    rate = _value(rules, load, load.now, rules.window_s)
    if _want(rules, rate + min(rate, load.in_flight / DRAIN_S)).replicas <= ignored:
        return NO_WANT
    usual = _usual_in_flight(rules, load)
    if load.in_flight - CHANCE * math.sqrt(load.in_flight) <= BEHIND * usual:
        return NO_WANT
    waiting = load.in_flight - usual
    replicas = _want(rules, rate + min(rate, waiting / DRAIN_S)).replicas
    return _Want(replicas, f"{rate:.1f} requests/s and {waiting:.0f} that wait, target {rules.target:g} each")


def _usual_in_flight(rules: Rules, load: Load) -> float:
    """Return the requests in flight without waiting, infinity if unknown.

    That is by the short times that requests have taken of late, but not by the shortest: a restart may make one up.
    """
    window_s, step_s = rules.window_s, STEP.total_seconds()
    times = [load.now - number * step_s for number in range(int(USUAL_S / step_s))]
    ended = [(at, load.ended(at, window_s)) for at in times]
    taken_s = sorted(load.in_flight_at(at) * window_s / count for at, count in ended if count >= COUNTED)
    return taken_s[len(taken_s) // 10] * ended[0][1] / window_s if taken_s else math.inf


def _least(rules: Rules, load: Load) -> _Want:
    """Return the number that running requests need, in a service that is not idle."""
    if rules.metric == "concurrency":
        return _Want(max(1, math.ceil(load.in_flight / rules.target)), _shown(rules, load.in_flight))
    return _Want(1, _shown(rules, _value(rules, load, load.now, rules.window_s)))


def _want(rules: Rules, value: float) -> _Want:
    load = value / rules.target
    replicas = math.ceil(load)
    if replicas > 1 and load <= TOLERANCE * (replicas - 1):
        replicas -= 1
    return _Want(replicas, _shown(rules, value))


def _value(rules: Rules, load: Load, at: float, window_s: float) -> float:
    """Return the metric, averaged over a window that ends at a time."""
    if rules.metric == "concurrency":
        return load.mean_in_flight(at, window_s)
    return load.arrived(at, window_s) / window_s


def _shown(rules: Rules, value: float) -> str:
    if rules.metric == "concurrency":
        return f"{value:.0f} in flight, target {rules.target:g} each"
    return f"{value:.1f} requests/s, target {rules.target:g} each"


def _range_of(rules: Rules, replicas: int) -> str:
    return f"at {'least' if replicas == rules.minimum else 'most'} {replicas} by the configuration"


def _number(want: _Want) -> int:
    return want.replicas


def _idle_in_s(rules: Rules, load: Load) -> float:
    """Return the time until the service is idle, if no request arrives; 0 or less if it is."""
    return load.busy_until + _idle_s(rules) - load.now


def _idle_s(rules: Rules) -> float:
    return max(rules.down_delay_s, IDLE_S)


def _memory_s(rules: Rules) -> float:
    """Return the time for which a load counts: at least so long that points are in it."""
    return max(STEP.total_seconds(), min(rules.down_delay_s, LONGEST_S))


def scale_to_json(scale: Scale | None) -> dict[str, Any] | None:
    """Return a decision as a JSON column holds it."""
    if scale is None:
        return None
    return {"asked": scale.asked, "since": scale.since.isoformat(), "why": scale.why}


def scale_of_json(body: Mapping[str, Any] | None) -> Scale | None:
    """Return the decision that `scale_to_json` wrote."""
    return None if body is None else Scale(**{**body, "since": datetime.fromisoformat(body["since"])})
