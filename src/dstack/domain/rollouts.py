"""Rollouts: a service gets another spec while it answers requests, replica by replica."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

ROLLOUT_TRIES = 3
"""A replica of the new revision that fails so often in a row ends the rollout."""
ROLLOUT_FOR = timedelta(hours=1)
"""A replica of the new revision that runs for so long without becoming ready ends the rollout. Large models load for
most of it."""
NO_ROOM_AFTER = timedelta(seconds=5)
"""A replica that has waited in the queue for so long finds no room: a pass over the queue takes less."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The change from one deployment to the next, until all replicas are ready."""

    since: datetime
    back_to: int | None = None
    """The number of the revision whose spec returns if the new one never gets ready. None where there is no way back:
    none was ready before, or this is the way back."""
    back_to_deployment: int | None = None
    is_forced: bool = False
    """Whether the old replicas end at once."""


def rollout_to_json(rollout: Rollout | None) -> dict[str, Any] | None:
    """Return a rollout as a JSON column holds it."""
    if rollout is None:
        return None
    return {
        "since": rollout.since.isoformat(),
        "back_to": rollout.back_to,
        "back_to_deployment": rollout.back_to_deployment,
        "is_forced": rollout.is_forced,
    }


def rollout_of_json(body: Mapping[str, Any] | None) -> Rollout | None:
    """Return the rollout that `rollout_to_json` wrote."""
    return None if body is None else Rollout(**{**body, "since": datetime.fromisoformat(body["since"])})
