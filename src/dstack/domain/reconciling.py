"""The machines of backends compared with the record: the last guard against leaked machines.

Clouds are eventually consistent: a machine may be listed late, and still be listed after its end. So nothing is acted
on that was seen once only, but for a backend whose list is true at the moment it is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dstack.domain.machines import Machine, MachineState
from dstack.domain.objects import Instance
from dstack.protocol.statuses import InstanceStatus

ORPHAN_AFTER = timedelta(minutes=2)
"""How long a machine is seen without anybody claiming it before it is ended."""

MISSING_AFTER = timedelta(minutes=1)
"""The time without a sighting before a machine counts as missing."""

LISTED_WITHIN = timedelta(minutes=5)
"""A machine that was just bought may not be listed yet."""


class Difference(StrEnum):
    """A difference between a backend and the record about one machine."""

    ORPHAN = "orphan"
    """No instance claims it."""
    DUPLICATE = "duplicate"
    """Its instance has another machine."""
    MISSING = "missing"
    """An instance claims it, and the backend does not have it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, and since when it is seen."""

    difference: Difference
    backend: str
    machine_id: str
    key: str
    since: datetime
    is_exact: bool = False
    """Whether the backend's list is true at that very moment."""

    @property
    def sure_at(self) -> datetime:
        """From when on it is acted on."""
        if self.is_exact:
            return self.since
        return self.since + (MISSING_AFTER if self.difference is Difference.MISSING else ORPHAN_AFTER)


def compare(
    backend: str,
    listed: Sequence[Machine],
    instances: Mapping[str, Instance],
    before: Sequence[Finding],
    now: datetime,
    exact_at: datetime | None = None,
) -> list[Finding]:
    """Return the differences between the backend and the record.

    Args:
        listed: every machine of ours that the backend lists. One that has ended counts as absent.
        instances: the unfinished instances of this backend, by id, as they are on record *after* the backend was asked.
        before: the findings of the look before this one.
        exact_at: when a backend was asked whose list is true at that moment.
    """
    since = {(one.difference, one.machine_id): one.since for one in before}
    existing = [one for one in listed if one.state is not MachineState.ENDED]
    found = [(difference, one.id, one.key) for one in existing if (difference := _judge(one, instances)) is not None]
    there = {one.id for one in existing}
    for id, instance in instances.items():
        machine_id = instance.machine_id
        if machine_id is not None and machine_id not in there and _should_be_listed(instance, now, exact_at):
            found.append((Difference.MISSING, machine_id, id))
    is_exact = exact_at is not None
    return [Finding(what, backend, id, key, since.get((what, id), now), is_exact) for what, id, key in found]


def _judge(machine: Machine, instances: Mapping[str, Instance]) -> Difference | None:
    instance = instances.get(machine.key)
    if instance is None:
        return Difference.ORPHAN
    # Until the record names the machine, any of them may turn out to be the one.
    is_another = instance.machine_id is not None and instance.machine_id != machine.id
    return Difference.DUPLICATE if is_another else None


def _should_be_listed(instance: Instance, now: datetime, exact_at: datetime | None) -> bool:
    if exact_at is not None:
        return instance.takes_jobs and instance.status_since < exact_at
    if instance.status is InstanceStatus.PROVISIONING:
        return now - instance.status_since >= LISTED_WITHIN
    return instance.takes_jobs
