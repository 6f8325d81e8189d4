"""Made-up traffic: the shapes that the rule was tuned on, and others."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

MINUTE_S, HOUR_S = 60.0, 3600.0
SERVICE_MEAN_S = 4.0
SERVICE_SIGMA = 0.7
"""The spread of the lognormal service time: one request in twenty takes three times the median or more."""

Rate = Callable[[float], float]
"""The expected requests a second at a time since the beginning, in seconds."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Traffic of one shape."""

    name: str
    length_s: float
    peak: float
    """The bound of the rate."""
    rate: Rate
    minimum: int = 1
    """The least number of replicas."""


@dataclass(slots=True)
class Request:
    """One request."""

    at: float
    service_s: float


def requests_of(trace: Trace, seed: int) -> list[Request]:
    """Return the requests of a trace, drawn by chance around its rate."""
    chance = random.Random(f"{trace.name} {seed}")
    location = math.log(SERVICE_MEAN_S) - SERVICE_SIGMA**2 / 2
    requests, at = [], 0.0
    while (at := at + chance.expovariate(trace.peak)) < trace.length_s:
        if chance.random() * trace.peak < trace.rate(at):
            requests.append(Request(at, chance.lognormvariate(location, SERVICE_SIGMA)))
    return requests


def _spike(at: float) -> float:
    return 20.0 if 60 * MINUTE_S <= at < 80 * MINUTE_S else 2.0


def _daily(at: float) -> float:
    """A day in six hours, with waves of 23 and 7 minutes."""
    waves = 1 + 0.3 * math.sin(math.tau * at / (23 * MINUTE_S)) + 0.12 * math.sin(math.tau * at / (7 * MINUTE_S))
    return (9.0 - 7.5 * math.cos(math.tau * at / (6 * HOUR_S))) * waves


def _sparse(at: float) -> float:
    """A few requests within a minute, every 40 minutes or so."""
    return 0.1 if at % (40 * MINUTE_S) < MINUTE_S else 0.0


def _steps(at: float) -> float:
    return (2.0, 8.0, 14.0, 20.0, 8.0, 14.0, 5.0, 2.0)[int(at // (30 * MINUTE_S)) % 8]


TUNING = (
    Trace("spike", 3 * HOUR_S, 20.0, _spike),
    Trace("daily", 6 * HOUR_S, 24.0, _daily),
    Trace("sparse", 6 * HOUR_S, 0.1, _sparse, minimum=0),
    Trace("steps", 4 * HOUR_S, 20.0, _steps),
)


def _two_spikes(at: float) -> float:
    """Two spikes of unequal height and length."""
    if 40 * MINUTE_S <= at < 52 * MINUTE_S:
        return 18.0
    return 14.0 if 95 * MINUTE_S <= at < 125 * MINUTE_S else 3.0


def _week(at: float) -> float:
    """A week of hours instead of days: the last two are quiet, and all have waves of 19 and 4 minutes."""
    height = 14.0 if at < 5 * HOUR_S else 4.0
    waves = 1 + 0.2 * math.sin(math.tau * at / (19 * MINUTE_S)) + 0.2 * math.sin(math.tau * at / (4 * MINUTE_S))
    return (1.0 + height * math.sin(math.pi * (at % HOUR_S) / HOUR_S) ** 2) * waves


def _ramp(at: float) -> float:
    """A slow rise for three hours, then a fall within a minute."""
    return 1.0 + 19.0 * at / (3 * HOUR_S) if at < 3 * HOUR_S else 1.0


def _on_off(at: float) -> float:
    """Six minutes of bursts after nine quiet ones."""
    return 9.0 if at % (15 * MINUTE_S) >= 9 * MINUTE_S else 0.5


def _visits(at: float) -> float:
    """A request every six minutes by chance, and an hour of daily work."""
    return 4.0 if 2 * HOUR_S <= at < 3 * HOUR_S else 1 / (6 * MINUTE_S)


HELD_OUT = (
    Trace("spike-again", 3 * HOUR_S, 20.0, _spike),
    Trace("daily-again", 6 * HOUR_S, 24.0, _daily),
    Trace("two-spikes", 3 * HOUR_S, 18.0, _two_spikes),
    Trace("week", 7 * HOUR_S, 21.0, _week),
    Trace("ramp", 4 * HOUR_S, 20.0, _ramp),
    Trace("on-off", 3 * HOUR_S, 9.0, _on_off),
    Trace("visits", 5 * HOUR_S, 4.0, _visits, minimum=0),
)
"""Made when the rule had been frozen."""
