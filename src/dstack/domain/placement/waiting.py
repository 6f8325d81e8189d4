"""Why a gang waits, in words: of the machines and the offers that would fit it."""

from collections.abc import Sequence
from dataclasses import dataclass

from dstack.domain.market import Market, Offers, without
from dstack.domain.offers import Demand, share_of
from dstack.domain.placement.capacity import Kind, Machines
from dstack.domain.rooms import Room
from dstack.kit.text import memory_text

BEHIND = "earlier runs wait for the same machines"
OFFERS_NAMED_MAX = 3
"""The bound of offers in a reason."""


@dataclass(slots=True, eq=False)
class Reason:
    """Why a gang waits. The text is made where it is read."""

    demand: Demand
    nodes: int
    with_room: int
    """The number of its nodes that have room."""
    machines: Machines
    kinds: int
    """The kinds of machines that would fit."""
    market: Market
    buyable: Offers
    """The offers that would fit."""
    closed: Sequence[str]
    """Why backends take no new jobs."""

    def __str__(self) -> str:
        kinds = self.machines.select(self.kinds)
        rests = next((kind.summary.rests for kind in kinds if kind.summary.rests), "")
        well = sum(kind.summary.well for kind in kinds)
        reason = self._of_room(kinds, well) if well or not rests else ""
        return "; ".join(filter(None, (reason, rests)))

    def _of_room(self, kinds: Sequence[Kind], well: int) -> str:
        needs = ""
        if self.nodes > 1:
            needs = f"{self.with_room} of {self.nodes} nodes have room, and all start together; "
        shared = [room for kind in kinds if kind.offer.is_shared and (room := kind.summary.freest) is not None]
        if shared:
            return needs + _of_shared(self.demand, max(shared, key=lambda room: (room.cpus, room.memory_mib)))
        if well:
            busy = sum(kind.summary.busy for kind in kinds)
            if busy == well:
                return f"{needs}every machine that fits is in use ({busy})"
            return f"{needs}{busy} of the {well} machines that fit are in use"
        if self.buyable:
            allowed = without(self.buyable, self.market.index.closed)
            cheapest = self.market.select(allowed or self.buyable, OFFERS_NAMED_MAX)
            if not allowed:
                return f"{needs}the quota is 0 for {', '.join(dict.fromkeys(offer.title for offer in cheapest))}"
            limited = ", ".join(f"{offer.machines_max} of {offer.title}" for offer in cheapest)
            return f"{needs}at most {limited} may exist at once, and other jobs use them"
        if self.demand.reuse_only:
            return f"{needs}no existing machine fits, and the run may not use a new one"
        return needs + "; ".join(["no backend offers a machine that fits now", *self.closed])


def _of_shared(demand: Demand, best: Room) -> str:
    share = share_of(demand, best.offer)
    has = best.offer.resources
    asked = [_counted(share.cpus, "CPU"), memory_text(share.memory_mib)]
    free = [f"{max(0, best.cpus):g} of {_counted(has.cpus, 'CPU')}", memory_text(max(0, best.memory_mib))]
    if share.gpus:
        asked.append(_counted(len(share.gpus), "GPU"))
        there = {index for index, gpu in enumerate(has.gpus) if not gpu.gone}
        free.append(f"{len(there - best.gpus_taken)} of {_counted(len(there), 'GPU')}")
    way_out = "; a run there must end first" if best.jobs else ""
    return f"needs {_listed(asked)}; {_listed(free)} are free on {best.offer.title}{way_out}"


def _counted(count: float, what: str) -> str:
    return f"{count:g} {what}{'' if count == 1 else 's'}"


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
