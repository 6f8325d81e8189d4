"""What is so in a made-up world, whatever the record says: which machines exist, which jobs run, how they ended."""

from collections import Counter
from dataclasses import dataclass, field

from dstack.protocol.agent import JobOrder
from dstack.testing.behaviours import who_of


@dataclass(frozen=True, slots=True)
class ExistingMachine:
    """A machine that somebody pays for."""

    key: str
    cloud: str
    born_at_s: float


@dataclass(slots=True)
class Truth:
    """Written by the world's observer, read by the rules."""

    machines: dict[str, ExistingMachine] = field(default_factory=dict)
    running: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """On which machine each job runs, by its id; by run and node."""
    starts: Counter[str] = field(default_factory=Counter)
    """How often each job was started."""
    ends: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """How each job ended, and its exit code."""
    failed_starts: dict[str, list[float]] = field(default_factory=dict)
    """When each machine failed to start jobs for reasons of its own, by its key."""
    links: dict[str, list[float]] = field(default_factory=dict)
    """When servers connected to each machine's agent, by its key."""
    accepted: set[str] = field(default_factory=set)
    """The names of the runs that a server said it took."""

    def runs_on(self, job_id: str) -> str | None:
        """The machine on which a job runs, where it does."""
        return next((jobs[job_id] for jobs in self.running.values() if job_id in jobs), None)

    def job_started(self, key: str, order: JobOrder) -> tuple[str, str]:
        """A job runs from now on; returns its run and node."""
        who = who_of(order)
        self.starts[order.job_id] += 1
        self.running.setdefault(who, {})[order.job_id] = key
        return who

    def job_ended(self, order: JobOrder, end: str, exit_code: int | None) -> None:
        """A job's processes are gone."""
        who = who_of(order)
        self.running.get(who, {}).pop(order.job_id, None)
        self.ends[order.job_id] = end, exit_code
