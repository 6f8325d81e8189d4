"""What all made-up things share: chance, faults, what jobs do, and who watches."""

import random
from dataclasses import dataclass, field

from dstack.protocol.agent import JobOrder
from dstack.testing.behaviours import Behaviours
from dstack.testing.faults import F, Faults, Likely


class Observer:
    """Hears of what really happens in a world; this one does nothing about it."""

    def told(self, who: str, what: str) -> None:
        """Something for the story."""

    def machine_came(self, cloud: str, key: str) -> None:
        """A machine exists from now on."""

    def machine_went(self, cloud: str, key: str) -> None:
        """A machine does not exist any more."""

    def link_came(self, key: str) -> None:
        """A server has connected to the agent of a machine."""

    def job_started(self, key: str, order: JobOrder) -> None:
        """The processes of a job run from now on."""

    def job_ended(self, key: str, order: JobOrder, end: str, exit_code: int | None) -> None:
        """A job is over, and its processes are gone; `end` is as in a report, or `vanished` with its machine."""


@dataclass(frozen=True, slots=True)
class Nature:
    """The laws of one world."""

    chance: random.Random
    faults: Faults = field(default_factory=Faults)
    behaviours: Behaviours = field(default_factory=Behaviours)
    observer: Observer = field(default_factory=Observer)

    def happens(self, kind: type[Likely]) -> bool:
        """Whether a fault of this kind strikes now."""
        probability = self.faults.probability_of(kind)
        return probability > 0 and self.chance.random() < probability

    def find(self, kind: type[F]) -> F | None:
        """The fault of this kind, where the world has it."""
        return self.faults.find(kind)

    def within(self, seconds: float) -> float:
        """Some moment within so many seconds."""
        return self.chance.uniform(0, seconds)


class Spells:
    """Times when something is so, between times when it is not."""

    def __init__(self, chance: random.Random, *, every_s: float, lasts_s: float) -> None:
        self._chance = chance
        self._every_s = every_s
        self._lasts_s = lasts_s
        self._is_on = False
        self._until_s = chance.expovariate(1 / every_s)

    def left_s(self, now_s: float) -> float:
        """For how long it stays so."""
        self.is_on(now_s)
        return self._until_s - now_s

    def is_on(self, now_s: float) -> bool:
        """Whether it is so now. Time goes on from one call to the next."""
        while self._until_s <= now_s:
            self._is_on = not self._is_on
            self._until_s += self._chance.expovariate(1 / (self._lasts_s if self._is_on else self._every_s))
        return self._is_on
