"""The changes of a new configuration to an active run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from dstack.spec.configurations import RunConfiguration
from dstack.spec.profile import TerminationPolicy

IN_PLACE = frozenset(("inactivity_duration", "priority", "retry", "stop_duration", "tags"))
"""The fields that can change in place, since they take effect later."""


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


def changes(old: RunConfiguration, new: RunConfiguration) -> list[Change]:
    """The fields in which two configurations mean different things; None for what is as it is where nothing is written.

    Examples:
        >>> from dstack.spec.task import Task
        >>> changes(Task(commands=["x"], priority=1), Task(commands=["x"], env={"A": "1"}, nodes=1))
        [Change(field='env', old=None, new={'A': '1'}), Change(field='priority', old=1, new=None)]
    """
    then, now = _meaning(old), _meaning(new)
    fields = sorted({*then, *now})
    return [Change(field, then.get(field), now.get(field)) for field in fields if then.get(field) != now.get(field)]


def _meaning(configuration: RunConfiguration) -> dict[str, Any]:
    """Return the fields as a JSON object: under their new names, without defaults."""
    said = configuration.model_dump(mode="json", exclude_defaults=True, exclude={"name", "resources"})
    meant = {**said, "type": configuration.type}
    for old, new in configuration.renamed.items():
        if old in meant:
            meant[new] = meant.pop(old)
    if "pool_name" in meant:
        meant["fleets"] = [meant.pop("pool_name")]
    if meant.pop("termination_policy", None) == TerminationPolicy.DONT_DESTROY:
        meant["idle_duration"] = "off"
    if "working_dir" in meant and (folder := PurePosixPath(meant.pop("working_dir"))).parts:
        meant["working_dir"] = str(folder)
    for name in configuration.without_effect:
        meant.pop(name, None)
    if resources := _needs(configuration):
        meant["resources"] = resources
    return meant


def _needs(configuration: RunConfiguration) -> dict[str, Any]:
    """Return the resources that were written: unlike defaults, they exclude machines even if equal."""
    resources = configuration.resources
    written = resources.model_dump(mode="json", exclude_unset=True, exclude={"gpu", "shm_size"})
    return {**written, **resources.model_dump(mode="json", exclude_defaults=True, include={"gpu", "shm_size"})}


SECRET = ("env", "registry_auth")


def shown(change_field: str, value: object) -> str | None:
    """Return a value for people; None if the field is not set. Of what may be secret only that it is there."""
    if value is None:
        return None
    if change_field in SECRET:
        names = ", ".join(value) if isinstance(value, Mapping) else ""
        return f"{names} (values not shown)" if change_field == "env" else "(not shown)"
    return value if isinstance(value, str) else json.dumps(value)
