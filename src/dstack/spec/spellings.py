"""Fields that say the same in other words, and which of them counts where two sources have their say."""

from collections.abc import Mapping
from typing import Any

TWINS = (
    frozenset(("retry", "retry_policy")),
    frozenset(("idle_duration", "termination_idle_time", "termination_policy")),
    frozenset(("fleets", "pool_name")),
)
"""Whoever writes one of these fields means it instead of the others."""


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both, where `upper` wins, also over what says the same in other words.

    Examples:
        >>> over({"nodes": 2, "retry_policy": True}, {"retry": False})
        {'nodes': 2, 'retry': False}
    """
    hidden = {name for twins in TWINS if twins & upper.keys() for name in twins}
    return {**{name: value for name, value in lower.items() if name not in hidden}, **upper}
