"""Why a gang waits, in words: of the machines and the offers that would fit it."""

from collections.abc import Sequence

from dstack.domain.objects import Job
from dstack.domain.offers import Demand, Offer, share_of
from dstack.domain.placement.capacity import Kind
from dstack.domain.rooms import Room
from dstack.kit.text import memory_text

BEHIND = "earlier runs wait for the same machines"


def why(
    gang: Sequence[Job], with_room: int, kinds: Sequence[Kind], buyable: Sequence[Offer], closed: Sequence[str]
) -> str:
    """Return why a gang waits.

    Args:
        with_room: the number of its nodes that have room.
        kinds: the kinds of machines that would fit.
        buyable: the cheapest offers that would fit.
        closed: why backends take no new jobs.
    """
    summaries = [kind.summary for kind in kinds]
    rests = next((one.rests for one in summaries if one.rests), "")
    well = sum(one.well for one in summaries)
    reason = _reason(gang, with_room, kinds, buyable, closed) if well or not rests else ""
    return "; ".join(filter(None, (reason, rests)))


def _reason(
    gang: Sequence[Job], with_room: int, kinds: Sequence[Kind], buyable: Sequence[Offer], closed: Sequence[str]
) -> str:
    demand = gang[0].demand
    needs = f"{with_room} of {len(gang)} nodes have room, and all start together; " if len(gang) > 1 else ""
    shared = [room for kind in kinds if kind.offer.is_shared and (room := kind.summary.freest) is not None]
    if shared:
        return needs + _of_shared(demand, max(shared, key=lambda room: (room.cpus, room.memory_mib)))
    well = sum(kind.summary.well for kind in kinds)
    if well:
        busy = sum(kind.summary.busy for kind in kinds)
        if busy == well:
            return f"{needs}every machine that fits is in use ({busy})"
        return f"{needs}{busy} of the {well} machines that fit are in use"
    if buyable:
        limited = ", ".join(f"{offer.machines_max} of {offer.title}" for offer in buyable)
        return f"{needs}at most {limited} may exist at once, and other jobs use them"
    if demand.reuse_only:
        return f"{needs}no existing machine fits, and the run may not use a new one"
    return needs + "; ".join(["no backend offers a machine that fits now", *closed])


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
