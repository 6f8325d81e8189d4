"""What can go wrong in a made-up world, as values: each says how often, how long, and what it does to whom.

Times are virtual seconds. Where something happens `every_s`, that is the mean of an exponential distribution.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class SoldOut:
    """A cloud has no machines left, in spells."""

    every_s: float = 1200.0
    lasts_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """A cloud answers no call, in spells; nothing happens there meanwhile that was asked for."""

    every_s: float = 900.0
    lasts_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LostReplies:
    """A cloud does what it was asked to, and its answer never arrives."""

    probability: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class LateCreates:
    """A launch times out, and its machine comes to be some time later."""

    probability: float = 0.2
    within_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HangingLaunches:
    """A launch does not return for hours, however often it is repeated. Then it succeeds."""

    probability: float = 0.2
    at_most_s: float = 10_800.0
    only: str | None = None
    """The cloud whose launches hang; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventualConsistency:
    """What a cloud lists lags behind what has begun and what has ended there."""

    lag_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedEnds:
    """The end of a machine has to be asked for again: it takes time, or it is refused."""

    probability: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowBoots:
    """Machines take their time; the slowest ones longer than a server waits."""

    at_most_s: float = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A cloud answers no call, in spells, and refuses none: each caller waits in vain."""

    every_s: float = 900.0
    lasts_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LateAddresses:
    """A machine has no address when it is launched, and gets it later."""

    at_most_s: float = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedBoots:
    """A machine fails while it boots. It exists, and costs money, until its end is asked for."""

    probability: float = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotReclaims:
    """A cloud takes a spot machine back."""

    every_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFailures:
    """A machine is gone from one moment to the next, whoever paid what for it."""

    every_s: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCuts:
    """The connection to an agent breaks; what was under way is lost."""

    every_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRestarts:
    """An agent dies and comes back; its jobs go on meanwhile."""

    every_s: float = 600.0
    down_at_most_s: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedMessages:
    """What an agent says arrives twice."""

    probability: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStarts:
    """A host takes its time to prepare a job."""

    at_most_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStarts:
    """A host starts no job, for reasons of its own, in spells."""

    every_s: float = 900.0
    lasts_s: float = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCrashes:
    """The server dies before or after a commit, a call, an effect or a message, and starts again."""

    probability: float = 0.01
    at_most: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseBusy:
    """The database does not take a write just now."""

    probability: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPauses:
    """One of several servers stands still, and goes on where it stood: others may have taken over meanwhile."""

    every_s: float = 900.0
    lasts_s: float = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUpdates:
    """One of several servers ends in good order, and comes back."""

    every_s: float = 1200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongClocks:
    """The clocks of all servers but the first are wrong."""

    ahead_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJumps:
    """The clock of the machine on which a single server runs is set, wrong and right in turn."""

    every_s: float = 20.0
    by_s: float = 10_800.0

    def at(self, passed_s: float) -> float:
        """How wrong the clock is so many seconds after the beginning."""
        return self.by_s if int(passed_s / self.every_s) % 2 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChanges:
    """A run gets another script while its jobs wait and run; jobs that were made before keep theirs."""

    every_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeafServers:
    """Servers do not hear of each other's commits, in spells."""

    every_s: float = 300.0
    lasts_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendChanges:
    """A backend is added while servers run, deleted while it is in use, and added again."""

    name: str = "aws"
    every_s: float = 600.0
    away_at_most_s: float = 600.0
    drains: float = 0.7
    """The share of deletions that drain its machines. Any other is refused while it has some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherAgents:
    """The agents of some machines are one version older or newer than the servers."""

    probability: float = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileAgents:
    """An agent sends what none should: reports of other machines' jobs, messages without sense, and all of it twice."""

    every_s: float = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDeaths:
    """Replicas of services die, or do not answer for a while."""

    every_s: float = 400.0
    away_at_most_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDrains:
    """Requests of draining replicas take long, or never end."""

    at_most_s: float = 1200.0
    never: float = 0.2
    """The share of those that never end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneKills:
    """A data plane dies with its requests, and another one follows. Some clients send a broken request again."""

    every_s: float = 600.0


Fault: TypeAlias = (
    SoldOut
    | Unavailable
    | LostReplies
    | LateCreates
    | HangingLaunches
    | EventualConsistency
    | RefusedEnds
    | SlowBoots
    | Silence
    | LateAddresses
    | FailedBoots
    | SpotReclaims
    | MachineFailures
    | LinkCuts
    | AgentRestarts
    | RepeatedMessages
    | SlowStarts
    | FailedStarts
    | ServerCrashes
    | DatabaseBusy
    | ServerPauses
    | ServerUpdates
    | WrongClocks
    | ClockJumps
    | DeafServers
    | RunChanges
    | BackendChanges
    | OtherAgents
    | HostileAgents
    | ReplicaDeaths
    | SlowDrains
    | DataPlaneKills
)

Likely: TypeAlias = (
    LostReplies | LateCreates | HangingLaunches | RefusedEnds | FailedBoots | RepeatedMessages | OtherAgents
)
"""The faults with a probability at each occasion."""

F = TypeVar("F", bound=Fault)


class Faults:
    """The faults of one world; at most one of each kind."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._by_kind: dict[type[object], Fault] = {type(fault): fault for fault in faults}

    def find(self, kind: type[F]) -> F | None:
        """The fault of this kind, where the world has it."""
        found = self._by_kind.get(kind)
        return found if isinstance(found, kind) else None

    def probability_of(self, kind: "type[Likely]") -> float:
        """How often it happens; 0 where the world does not have it."""
        found = self.find(kind)
        return 0.0 if found is None else found.probability

    def names(self) -> list[str]:
        """What the world has, for people."""
        return sorted(kind.__name__ for kind in self._by_kind)
