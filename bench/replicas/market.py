"""The offers and the requirements: 50,000 offers of three clouds with room for 1,000 machines, and 200 requirements."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.placement import BACKENDS, CARDS, DEMANDS, GIB, INSTANCES, OFFERS, offers_of_clouds
from dstack.backends.base import Abilities, Address, Backend, LaunchRequest, Machine, MachineState
from dstack.domain.offers import Offer

SOLD, OF_EACH = 100, INSTANCES // 100
"""So many offers have a quota, and for so many machines each."""
PLACED_EACH = 4
"""One in so many requirements finds machines."""


def offers(number: int = OFFERS) -> list[Offer]:
    """Return offers as clouds have them. Accounts have no quota for most."""
    found = offers_of_clouds(number)
    roomy = [place for place, offer in enumerate(found) if _is_roomy(offer)]
    sold = set(roomy[:: max(1, len(roomy) // SOLD)][:SOLD])
    return [replace(offer, machines_max=OF_EACH if place in sold else 0) for place, offer in enumerate(found)]


def _is_roomy(offer: Offer) -> bool:
    resources = offer.resources
    return (
        not offer.spot
        and not resources.gpus
        and resources.arch == "x86"
        and resources.cpus >= 8
        and min(resources.memory_mib, resources.disk_mib // 10) >= 32 * GIB
    )


def configuration(number: int) -> dict[str, Any]:
    """Return a task of one of 200 requirements: a quarter of them finds machines, the rest waits for ever."""
    demand = number % DEMANDS
    resources: dict[str, Any] = {"cpu": "2..", "memory": f"{2 + demand % 20}GB..", "disk": f"{100 + demand}GB.."}
    if not places(number):
        resources["gpu"] = {"name": CARDS[demand % len(CARDS)].name, "count": (1, 2, 4, 8)[demand // 5 % 4]}
    return {"type": "task", "commands": ["simulate 1000000 0 0"], "resources": resources}


def places(number: int) -> bool:
    """Return whether there are machines for the requirements of this number."""
    return number % PLACED_EACH == 0


class Cloud(Backend):
    """One of the clouds. All servers see the same machines: each is a file."""

    abilities = Abilities(locate_every=None)

    def __init__(self, folder: Path, sold: list[Offer]) -> None:
        self._folder = folder
        self._sold = sold

    def check(self) -> None:
        """There are no credentials."""

    def offers(self) -> list[Offer]:
        """Return all it sells."""
        return self._sold

    def launch(self, request: LaunchRequest) -> Machine:
        """The machine is there at once."""
        (self._folder / request.key).touch()
        return _machine(request.key)

    def look_up(self, key: str | None = None) -> list[Machine]:
        """Return its machines."""
        return [_machine(file.name) for file in self._folder.iterdir() if key in (None, file.name)]

    def terminate(self, key: str, keep: str | None = None) -> bool:
        """The machine is missing at once."""
        (self._folder / key).unlink(missing_ok=True)
        return True


def _machine(key: str) -> Machine:
    return Machine(key, key, MachineState.RUNNING, Address("localhost"))


def clouds(folder: Path) -> Mapping[str, Backend]:
    """Return the three clouds, with their machines in folders."""
    made: dict[str, Backend] = {}
    on_sale = offers()
    for name in BACKENDS:
        place = folder / "machines" / name
        place.mkdir(parents=True, exist_ok=True)
        made[name] = Cloud(place, [offer for offer in on_sale if offer.backend == name])
    return made
