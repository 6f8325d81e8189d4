"""A made-up cloud: capacity that comes and goes, replies that get lost, ends that are refused at first."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dstack.backends.base import Backend, Machine
from dstack.domain.offers import Offer
from dstack.errors import BackendUnavailable, NoCapacityError
from dstack.testing.hosts import Host, OnStart


@dataclass(frozen=True, slots=True)
class CloudFaults:
    """How often what goes wrong, as probabilities."""

    sold_out: float = 0.0
    """A launch finds no capacity."""
    reply_lost: float = 0.0
    """A launch succeeds, and nobody hears of it."""
    unavailable: float = 0.0
    """A call fails before anything has happened."""
    end_refused: float = 0.0
    """An end has to be asked for again."""
    boot_s: float = 30.0
    """How long a machine takes until its agent answers, at most."""


class FakeCloud(Backend):
    """Machines that exist until their end is confirmed."""

    def __init__(self, data_dir: Path, *, name: str, offer: Offer, faults: CloudFaults, chance: random.Random) -> None:
        self.name = name
        self.hosts: dict[str, Host] = {}
        """Every machine that exists, by key."""
        self.ended: dict[str, Host] = {}
        self.launched: list[str] = []
        self.on_start: OnStart | None = None
        """Told about each job that begins to run on one of the machines."""
        self._offer = offer
        self._faults = faults
        self._chance = chance

    def check(self) -> None:
        """The credentials are always good."""

    def offers(self) -> Sequence[Offer]:
        """The one thing on sale."""
        self._maybe_unavailable()
        return [self._offer]

    def launch(self, key: str, offer: Offer) -> Machine:
        """Start a machine, unless there is one of this key."""
        self._maybe_unavailable()
        if key not in self.hosts:
            if self._happens(self._faults.sold_out):
                raise NoCapacityError(f"{offer.instance_type} is sold out in {offer.region}")
            self.launched.append(key)
            self.hosts[key] = Host(key, offer.resources, self._chance.uniform(0, self._faults.boot_s), self.on_start)
            if self._happens(self._faults.reply_lost):
                raise BackendUnavailable("The reply was lost")
        return self._machine(key)

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        """The machine of this key, or all."""
        return [self._machine(known) for known in self.hosts if key in (None, known)]

    def terminate(self, key: str, keep: str | None = None) -> bool:
        """End a machine; sometimes only when asked again."""
        self._maybe_unavailable()
        if key in self.hosts:
            if self._happens(self._faults.end_refused):
                return False
            self.reclaim(key)
        return True

    def reclaim(self, key: str) -> None:
        """Take a machine away."""
        host = self.ended[key] = self.hosts.pop(key)
        host.vanish()

    def _machine(self, key: str) -> Machine:
        return Machine(id=key, key=key, hostname=f"10.0.0.{len(self.launched) % 250 + 1}")

    def _maybe_unavailable(self) -> None:
        if self._happens(self._faults.unavailable):
            raise BackendUnavailable("The cloud does not answer just now")

    def _happens(self, probability: float) -> bool:
        return self._chance.random() < probability
