"""The queue as a pass reads it: gangs in order, each in the line of those with the same requirements."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from dstack.domain.objects import Job
from dstack.domain.offers import Demand


class Line:
    """The gangs of one project with equal requirements: once one of them waits, so do all behind it."""

    __slots__ = ("_hash", "demand", "project_id")

    def __init__(self, project_id: str, demand: Demand) -> None:
        self.project_id = project_id
        self.demand = demand
        self._hash = hash((project_id, demand))  # a pass asks ten thousand times, and a demand has twenty fields

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Line) and (self.project_id, self.demand) == (other.project_id, other.demand)
        )


@dataclass(slots=True, eq=False)
class Gang:
    """The jobs of a replica, which start together: those of them that wait."""

    run_id: str
    line: Line
    position: Any
    """The gang's place in the order of its queue."""
    ids: list[str] = field(default_factory=list)
    """The jobs, by node."""


class Queue(Protocol):
    """Gangs in the order of the queue. Their jobs are read only where they are needed."""

    def gangs(self, skipped: Container[Line]) -> Iterator[Gang]:
        """Return the gangs in order.

        Args:
            skipped: the lines whose further gangs are left out; it grows meanwhile.
        """
        ...

    def jobs_of(self, gang: Gang) -> Sequence[Job]:
        """Return the jobs of a gang, by node."""
        ...


class JobQueue:
    """A queue of jobs that are in memory.

    Args:
        jobs: in the order of the queue; the nodes of a gang follow each other.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = jobs
        self._of_gang: dict[Gang, Sequence[Job]] = {}

    def gangs(self, skipped: Container[Line]) -> Iterator[Gang]:
        """Return the gangs in order, without those of skipped lines."""
        lines: dict[tuple[str, Demand], Line] = {}
        for position, nodes in groupby(self._jobs, key=lambda job: (job.run_id, job.replica)):
            jobs = list(nodes)
            asked = jobs[0].project_id, jobs[0].demand
            line = lines.get(asked) or lines.setdefault(asked, Line(*asked))
            if line in skipped:
                continue
            gang = Gang(jobs[0].run_id, line, position, [job.id for job in jobs])
            self._of_gang[gang] = jobs
            yield gang

    def jobs_of(self, gang: Gang) -> Sequence[Job]:
        """Return the jobs of a gang, by node."""
        return self._of_gang[gang]
