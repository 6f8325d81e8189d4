"""The traits of offers that decide whether a machine fits, and the reasons why one does not fit, as values.

Each trait pairs a part of the requirements with a part of an offer. `domain.market` asks a trait once for each value
that occurs among the offers. Sentences are made at the edge (`operations.refusals`).
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from dstack.domain.offers import DEFAULT_FLEET, Bounds, Demand, GpuDemand, Offer, gpus_among, wishes_for_container
from dstack.protocol.agent import Gpu


class Reason(StrEnum):
    """Why an offer does not fit: the field of the requirements that it fails."""

    BACKEND = "backends"
    REGION = "regions"
    INSTANCE_TYPE = "instance_types"
    PRICE = "max_price"
    SPOT = "spot_policy"
    RESERVATION = "reservation"
    INSTANCE_NAME = "instance_name"
    FLEET = "fleets"
    CPUS = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    ARCH = "arch"
    GPU = "gpu"
    GPU_COMPUTE_CAPABILITY = "gpu.compute_capability"
    GPU_TOTAL_MEMORY = "gpu.total_memory"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class Misfit:
    """One reason why an offer does not fit, with the part of the requirements and the part of the offer."""

    reason: Reason
    asked: Any
    has: Any


class Source(NamedTuple):
    """The type and the name of a backend: requirements may use either."""

    type: str
    name: str


class Size(NamedTuple):
    """A number of processors or bytes, and whose it is."""

    value: int
    exists: bool
    is_shared: bool


class Cards(NamedTuple):
    """The cards of a machine, and whether each job gets only some of them."""

    gpus: tuple[Gpu, ...]
    is_shared: bool


class NoEngine(NamedTuple):
    """A machine without a container engine: the versions of Python for processes, and why the engine is missing."""

    pythons: tuple[str, ...]
    problem: str


class Wishes(NamedTuple):
    """The requirements that a container can meet, and perhaps a process."""

    fields: tuple[str, ...]
    python: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Trait:
    """One thing that decides whether an offer fits."""

    asked: Callable[[Demand], Hashable]
    """Return the part of the requirements; None where all offers fit."""
    has: Callable[[Offer], Hashable]
    judge: Callable[[Any, Any], Reason | None]
    """Return why what is there is not what is asked for; None where it fits."""
    is_of_kind: bool = True
    """Whether all offers of one kind of machine have it in common."""


def fits(demand: Demand, offer: Offer) -> bool:
    """Whether an empty machine of this offer is what is asked for."""
    return next(misfits(demand, offer), None) is None


def misfits(demand: Demand, offer: Offer) -> Iterator[Misfit]:
    """Return why this offer is not what is asked for.

    On a machine that exists already, a default that the user did not write excludes nothing.
    """
    return answers_of(questions_of(demand), offer)


def questions_of(demand: Demand) -> "list[tuple[Trait, Hashable]]":
    """Return the traits that a demand asks about, each with the part of the requirements."""
    return [(trait, asked) for trait in TRAITS if (asked := trait.asked(demand)) is not None]


def answers_of(questions: "Iterable[tuple[Trait, Hashable]]", offer: Offer) -> Iterator[Misfit]:
    """Return why this offer is not what the questions of a demand ask for."""
    for trait, asked in questions:
        has = trait.has(offer)
        reason = trait.judge(asked, has)
        if reason is not None:
            yield Misfit(reason, asked, has)


def _one_of(reason: Reason) -> Callable[[tuple[str, ...], str], Reason | None]:
    return lambda asked, has: None if has in asked else reason


def _from_one_of(asked: tuple[str, ...], has: Source) -> Reason | None:
    return None if has.type in asked or has.name in asked else Reason.BACKEND


def _never(reason: Reason) -> Callable[[Any, Any], Reason | None]:
    return lambda asked, has: reason


def _equal(reason: Reason) -> Callable[[Any, Any], Reason | None]:
    return lambda asked, has: None if has == asked else reason


def _within(reason: Reason) -> Callable[[Bounds, Size], Reason | None]:
    return lambda asked, has: None if _bounds_for(has, asked).holds(has.value) else reason


def _bounds_for(size: Size, bounds: Bounds) -> Bounds:
    """Return the bounds for the whole machine: where jobs share it, a job gets only its part."""
    if size.exists and not bounds.written:
        return Bounds(None, None, False)
    return replace(bounds, max=None) if size.is_shared else bounds


def _price_within(asked: float, has: float) -> Reason | None:
    return None if has <= asked else Reason.PRICE


def _judge_cards(asked: GpuDemand, has: Cards) -> Reason | None:
    alike = [gpu for gpu in has.gpus if asked.is_like(gpu)]
    fitting = [gpu for gpu in alike if asked.fits(gpu)]
    least = asked.count.min or 0
    if len(alike) < least:
        return Reason.GPU
    if len(fitting) < least:
        return Reason.GPU_COMPUTE_CAPABILITY
    if asked.total_memory_mib is not None:
        total = sum(gpu.memory_mib for gpu in fitting)
        some_will_do = gpus_among(asked, has.gpus, taken=frozenset()) is not None
        if not (some_will_do if has.is_shared else asked.total_memory_mib.holds(total)):
            return Reason.GPU_TOTAL_MEMORY
    return None


def _judge_engine(asked: Wishes, has: NoEngine | None) -> Reason | None:
    if has is None or not wishes_for_container(asked.fields, asked.python, has.pythons):
        return None
    return Reason.CONTAINER


def _size_of(value: int, offer: Offer) -> Size:
    return Size(value, offer.exists, offer.is_shared)


def _engine_of(offer: Offer) -> NoEngine | None:
    has = offer.resources
    return NoEngine(has.pythons, has.engine_problem) if has.engine is None else None


def _bounds(bounds: Bounds) -> Bounds | None:
    return None if bounds.min is None and bounds.max is None else bounds


BACKEND = Trait(
    lambda demand: demand.backends or None,
    lambda offer: Source(offer.backend, offer.backend_name),
    _from_one_of,
    is_of_kind=False,
)
REGION = Trait(lambda demand: demand.regions or None, lambda offer: offer.region, _one_of(Reason.REGION), False)
PRICE = Trait(lambda demand: demand.max_price, lambda offer: offer.price, _price_within, is_of_kind=False)

TRAITS: tuple[Trait, ...] = (
    BACKEND,
    REGION,
    Trait(
        lambda demand: demand.instance_types or None,
        lambda offer: offer.instance_type,
        _one_of(Reason.INSTANCE_TYPE),
        is_of_kind=False,
    ),
    PRICE,
    Trait(
        lambda demand: None if demand.spot == "auto" else demand.spot,
        lambda offer: "spot" if offer.spot else "on-demand",
        _equal(Reason.SPOT),
        is_of_kind=False,
    ),
    Trait(lambda demand: demand.reservation, lambda offer: None, _never(Reason.RESERVATION)),
    Trait(lambda demand: demand.instance_name, lambda offer: None, _never(Reason.INSTANCE_NAME)),
    Trait(
        lambda demand: demand.fleets if demand.fleets and DEFAULT_FLEET not in demand.fleets else None,
        lambda offer: DEFAULT_FLEET,
        _never(Reason.FLEET),
    ),
    Trait(
        lambda demand: _bounds(demand.cpus),
        lambda offer: _size_of(offer.resources.cpus, offer),
        _within(Reason.CPUS),
    ),
    Trait(
        lambda demand: _bounds(demand.memory_mib),
        lambda offer: _size_of(offer.resources.memory_mib, offer),
        _within(Reason.MEMORY),
    ),
    Trait(
        lambda demand: _bounds(demand.disk_mib),
        lambda offer: _size_of(offer.resources.disk_mib, offer),
        _within(Reason.DISK),
    ),
    Trait(lambda demand: demand.arch, lambda offer: offer.resources.arch, _equal(Reason.ARCH)),
    Trait(
        lambda demand: demand.gpu,
        lambda offer: Cards(offer.resources.gpus, offer.is_shared),
        _judge_cards,
    ),
    Trait(
        lambda demand: Wishes(demand.container, demand.python) if demand.container or demand.python else None,
        _engine_of,
        _judge_engine,
    ),
)
"""Everything that decides, in the order in which reasons are shown."""
