"""The rules that are compared: ours, and the plain one that the documentation of services describes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from bench.autoscaling.world import EPOCH_S, Look, World
from dstack.domain.autoscaling import Rules, decide

LOOK_S = 15.0


def rules_of(minimum: int) -> Rules:
    """Return the configuration of the bench: the documented defaults."""
    return Rules("rps", 3.0, minimum, maximum=10, up_delay_s=300, down_delay_s=600, window_s=60)


def ours(rules: Rules) -> Look:
    """Return the rule of the server, which looks after each report."""

    def look(world: World, now: float) -> tuple[int, float | None]:
        history = world.plane.history
        at = datetime.fromtimestamp(EPOCH_S + now, UTC)
        decision = decide(rules, world.scale, [history] if history else [], at)
        return decision.asked, decision.again_s

    return look


def plain(rules: Rules) -> Look:
    """Return the plain rule: the exact rate of the window, every 15 seconds, with a delay after each change."""

    def look(world: World, now: float) -> tuple[int, float | None]:
        rate = world.arrived(now - rules.window_s, now) / rules.window_s
        want = min(rules.maximum, max(rules.minimum, math.ceil(rate / rules.target)))
        asked = world.scale.asked
        age_s = EPOCH_S + now - world.scale.since.timestamp()
        may_rise = want > asked and (age_s >= rules.up_delay_s or not asked)
        may_fall = want < asked and age_s >= rules.down_delay_s
        return want if may_rise or may_fall else asked, LOOK_S

    return look


@dataclass(frozen=True, slots=True)
class Subject:
    """A rule that is measured."""

    name: str
    look_of: Callable[[Rules], Look]
    is_woken: bool
    """Whether it looks after each report, too."""


PLAIN, OURS = Subject("plain", plain, False), Subject("ours", ours, True)
