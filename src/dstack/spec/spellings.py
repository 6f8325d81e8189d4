"""Fields with the same meaning, and the precedence between two sources that set them."""

from collections.abc import Mapping
from typing import Any

TWINS = (
    frozenset(("retry", "retry_policy")),
    frozenset(("idle_duration", "termination_idle_time", "termination_policy")),
    frozenset(("fleets", "pool_name")),
)
"""Groups of fields of which a source that sets one replaces the others."""


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of both sources. `upper` overrides `lower`, also for fields with the same meaning.

    Examples:
        >>> over({"nodes": 2, "retry_policy": True}, {"retry": False})
        {'nodes': 2, 'retry': False}
    """
    hidden = {name for twins in TWINS if twins & upper.keys() for name in twins}
    return {**{name: value for name, value in lower.items() if name not in hidden}, **upper}
