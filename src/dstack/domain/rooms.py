"""The free capacity of machines, which placement assigns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from dstack.domain.objects import Instance, Job
from dstack.domain.offers import Demand, Offer, Share, gpus_for
from dstack.protocol.statuses import InstanceStatus


@dataclass(slots=True)
class Room:
    """The free capacity of one machine, existing or to be bought."""

    key: str
    """The instance's id, or `new-<n>`."""
    offer: Offer
    project_id: str | None
    cpus: float
    memory_mib: int
    gpus_taken: set[int] = field(default_factory=set)
    jobs: int = 0
    gives_way: bool = False
    """Whether it may end for a job that cannot use it: it is idle, and its idle time has a limit."""
    rests: str = ""
    """Why it takes no jobs just now, where it does not."""

    @property
    def is_full(self) -> bool:
        """Whether no job at all could come in."""
        if self.rests:
            return True
        return self.jobs > 0 if self.offer.blocks == 1 else self.cpus <= 0

    def share_for(self, demand: Demand, share: Share) -> Share | None:
        """The part that a job would get here now; None where it does not fit just now.

        Args:
            share: its share of an empty machine.
        """
        if self.rests:
            return None
        if not self.offer.is_shared:
            return share if self.jobs == 0 else None
        if share.cpus > self.cpus or share.memory_mib > self.memory_mib:
            return None
        if demand.gpu is None:
            return share
        gpus = gpus_for(demand, self.offer.resources.gpus, taken=frozenset(self.gpus_taken))
        return None if gpus is None else replace(share, gpus=gpus)

    def copy(self) -> "Room":
        """The same, to be changed."""
        taken = set(self.gpus_taken)
        free = self.cpus, self.memory_mib
        return Room(self.key, self.offer, self.project_id, *free, taken, self.jobs, self.gives_way, self.rests)

    def take(self, share: Share) -> None:
        """Let a job in."""
        self._change(share, 1)
        self.gpus_taken.update(share.gpus)

    def give_back(self, share: Share) -> None:
        """Undo `take`."""
        self._change(share, -1)
        self.gpus_taken.difference_update(share.gpus)

    def _change(self, share: Share, jobs: int) -> None:
        self.cpus -= share.cpus * jobs
        self.memory_mib -= share.memory_mib * jobs
        self.jobs += jobs


def room_of(instance: Instance, jobs: Sequence[Job]) -> Room:
    """Return the free capacity of a machine with these jobs."""
    room = empty_room(instance.id, instance.offer_as_found, instance.project_id)
    may_end = instance.idle_duration is not None or instance.offer.exists
    room.gives_way = instance.status is InstanceStatus.IDLE and not jobs and may_end
    room.rests = instance.why_resting
    for job in jobs:
        if job.holds_machine:
            room.take(job.share)
    return room


def rooms_of(instances: Iterable[Instance], jobs: Sequence[Job]) -> list[Room]:
    """Return the free capacity of all machines."""
    return [
        room_of(instance, [job for job in jobs if job.instance_id == instance.id])
        for instance in instances
        if instance.takes_jobs
    ]


def empty_room(key: str, offer: Offer, project_id: str | None) -> Room:
    """A machine without jobs."""
    return Room(key, offer, project_id, offer.resources.cpus, offer.resources.memory_mib)
