"""The changes of a new configuration to an active run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from dstack.domain.objects import Revision, Run
from dstack.domain.rollouts import Rollout
from dstack.spec.configurations import RunConfiguration
from dstack.spec.profile import TerminationPolicy
from dstack.spec.service import Service

IN_PLACE = frozenset(("inactivity_duration", "priority", "retry", "stop_duration", "tags"))
"""The fields that can change in place, since they take effect later."""
OF_ROUTES = frozenset(("auth", "https", "model", "rate_limits", "replicas", "scaling", "strip_prefix"))
"""Further fields of a service that can: they concern its routes, or the number of its replicas."""
BY_RESTART = frozenset(("schedule", "type"))
"""The fields of a service that no replica can change while others go on as before."""


_OF_FILES = ("id", "root", "url", "branch", "hash")
"""The fields of a spec's `repo` that distinguish files."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field that is not as it was."""

    field: str
    old: object
    new: object
    is_of_service: bool = False
    """Whether the run is a service, and stays one."""

    @property
    def in_place(self) -> bool:
        """Whether the run can go on with it."""
        return self.field in IN_PLACE or (self.is_of_service and self.field in OF_ROUTES)

    @property
    def by_rollout(self) -> bool:
        """Whether the replicas of the service are replaced for it, one by one."""
        return self.is_of_service and not self.in_place and self.field not in BY_RESTART


def changes(old: RunConfiguration, new: RunConfiguration) -> list[Change]:
    """The fields in which two configurations mean different things; None for what is as it is where nothing is written.

    Examples:
        >>> from dstack.spec.task import Task
        >>> changes(Task(commands=["x"], priority=1), Task(commands=["x"], env={"A": "1"}, nodes=1))
        [Change(field='env', old=None, new={'A': '1'}, is_of_service=False),
         Change(field='priority', old=1, new=None, is_of_service=False)]
    """
    then, now = _meaning(old), _meaning(new)
    fields = sorted({*then, *now})
    is_service = isinstance(old, Service) and isinstance(new, Service)
    return [
        Change(field, then.get(field), now.get(field), is_service)
        for field in fields
        if then.get(field) != now.get(field)
    ]


def changed_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the change of a service's files between two specs, in a list that is empty without one.

    A request without files leaves them as they are.
    """
    before, after = ({name: (spec.get("repo") or {}).get(name) for name in _OF_FILES} for spec in (old, new))
    is_another = any(after.values()) and before != after
    return [Change("files", before["root"], after["root"], is_of_service=True)] if is_another else []


def rolled_out(run: Run, *, is_ready: bool, returns: bool, is_forced: bool, now: datetime) -> Run:
    """Return a service whose next revision begins another deployment.

    Args:
        is_ready: whether a replica of the present deployment is ready: else there is nothing to return to.
        returns: whether the next revision means the same as the one that the present rollout may return to.
        is_forced: whether the old replicas end at once.
    """
    if run.failing_since is not None:  # the next attempt need not wait for what was wrong with the last one
        run = replace(run, retry_at=now)
    before = run.rollout
    back_to, back_to_deployment = (run.revision, run.deployment) if is_ready else (None, None)
    if before is not None and before.back_to is not None:
        back_to, back_to_deployment = before.back_to, before.back_to_deployment
    if returns and back_to_deployment is not None:
        return replace(run, deployment=back_to_deployment, rollout=Rollout(now, is_forced=is_forced), detail="")
    rollout = Rollout(now, back_to, back_to_deployment, is_forced)
    return replace(run, deployment=run.revision + 1, rollout=rollout, detail="")


def restored(back: Revision, now: Revision) -> Mapping[str, Any]:
    """Return the spec of a service that returns to an earlier revision. Fields that can change in place stay."""
    renamed, stays = Service.renamed, IN_PLACE | OF_ROUTES
    before, present = back.spec["configuration"], now.spec["configuration"]
    kept = {field: value for field, value in present.items() if renamed.get(field, field) in stays}
    rest = {field: value for field, value in before.items() if renamed.get(field, field) not in stays}
    return {**back.spec, "configuration": {**rest, **kept}}


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
    """Return a value for people; None if the field is not set. Of what may be secret only that it is there.

    Examples:
        >>> shown("replicas", "1..4"), shown("scaling", {"metric": "rps", "target": 10.0, "window": "30s"})
        ('1..4', 'rps 10, window 30s')
    """
    if value is None:
        return None
    if change_field in SECRET:
        names = ", ".join(value) if isinstance(value, Mapping) else ""
        return f"{names} (values not shown)" if change_field == "env" else "(not shown)"
    if change_field == "scaling" and isinstance(value, Mapping):
        rest = "".join(f", {name} {part}" for name, part in value.items() if name not in ("metric", "target"))
        return f"{value['metric']} {value['target']:g}{rest}"
    return value if isinstance(value, str) else json.dumps(value)
