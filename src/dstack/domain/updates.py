"""What a new configuration changes in a run that goes on already."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IN_PLACE = frozenset(("inactivity_duration", "priority", "retry", "retry_policy", "stop_duration", "tags"))
"""What has its effect later on, so that a run can go on with it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field that is not as it was."""

    field: str
    old: object
    new: object

    @property
    def in_place(self) -> bool:
        """Whether the run can go on with it."""
        return self.field in IN_PLACE


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The fields that differ between two configurations as JSON objects; None for what is not written.

    Examples:
        >>> changes({"type": "task", "priority": 1}, {"type": "task", "env": {"A": "1"}})
        [Change(field='env', old=None, new={'A': '1'}), Change(field='priority', old=1, new=None)]
    """
    fields = sorted({*old, *new} - {"name"})
    return [Change(field, old.get(field), new.get(field)) for field in fields if old.get(field) != new.get(field)]


SECRET = ("env", "registry_auth")


def shown(change_field: str, value: object) -> str | None:
    """A value for people; None where there is none. Of what may be secret only that it is there."""
    if value is None:
        return None
    if change_field in SECRET:
        names = ", ".join(value) if isinstance(value, Mapping) else ""
        return f"{names} (values not shown)" if change_field == "env" else "(not shown)"
    return value if isinstance(value, str) else json.dumps(value)
