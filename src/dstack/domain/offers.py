"""Offers, and whether they fit the requirements of a job."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil
from typing import Any, TypeAlias

import msgspec

from dstack.kit.plain import to_plain
from dstack.kit.text import memory_text
from dstack.protocol.agent import Gpu, HostResources
from dstack.protocol.runtimes import Runtime

DEFAULT_FLEET = "default"

TINY = 1e-9
"""The bound of rounding errors when parts of a machine are compared."""


OfferName: TypeAlias = tuple[str, str, str, bool]
"""The key of an offer: backend's id, region, instance type, and whether it is spot."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that can be bought: a machine of some size, in some place, at some price."""

    backend: str
    """The type of its backend, such as `aws`."""
    region: str
    instance_type: str
    resources: HostResources
    price: float
    """US dollars an hour."""
    spot: bool = False
    blocks: int | None = 1
    """The number of equal parts that jobs may hold: 1 for the whole machine, None for parts of any size."""
    exists: bool = False
    """Whether the machine exists already, so that nothing is bought."""
    for_all: bool = False
    """Whether its machines serve all projects."""
    runtime: Runtime = Runtime.CONTAINER
    """How a job runs there that can run either way."""
    machines_max: int | None = None
    """How many of it may exist at once; None where the backend sets no limit."""
    backend_id: str = ""
    """The id of its backend: of one without a row, the type. A driver leaves it out."""
    backend_name: str = ""
    """The name of its backend: the type, unless it was given another one. A driver leaves it out."""
    project_id: str | None = None
    """The only project that may buy it; None for all. A driver leaves it out."""

    def __post_init__(self) -> None:
        if not self.backend_id:
            object.__setattr__(self, "backend_id", self.backend)
        if not self.backend_name:
            object.__setattr__(self, "backend_name", self.backend)

    @property
    def name(self) -> OfferName:
        """Its key."""
        return self.backend_id, self.region, self.instance_type, self.spot

    @property
    def is_shared(self) -> bool:
        """Whether several jobs may run on one machine."""
        return self.blocks != 1

    @property
    def title(self) -> str:
        """Its name in a sentence."""
        return self.backend if self.instance_type == self.backend else f"{self.backend} {self.instance_type}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """A closed range; None is open. `written` distinguishes a value of the user from a default."""

    min: float | None
    max: float | None
    written: bool

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@dataclass(frozen=True, slots=True)
class GpuDemand:
    """The accelerators that a job requires."""

    count: Bounds
    vendor: str | None = None
    names: tuple[str, ...] = ()
    memory_mib: Bounds | None = None
    total_memory_mib: Bounds | None = None
    compute_capability: str | None = None
    """The least one that will do."""

    def fits(self, gpu: Gpu) -> bool:
        """Whether one such card is what is asked for."""
        return self.is_like(gpu) and self.is_young_enough(gpu)

    def is_like(self, gpu: Gpu) -> bool:
        """Whether it is such a card and is there, whatever it can compute."""
        if gpu.gone:
            return False
        if self.vendor is not None and gpu.vendor.lower() != self.vendor:
            return False
        if self.names and not any(name.lower() in _words(gpu) for name in self.names):
            return False
        return self.memory_mib is None or self.memory_mib.holds(gpu.memory_mib)

    def is_young_enough(self, gpu: Gpu) -> bool:
        """Whether it reports the required compute capability."""
        if self.compute_capability is None:
            return True
        has = gpu.compute_capability
        return has is not None and _numbers(has) >= _numbers(self.compute_capability)


def _numbers(compute_capability: str) -> list[int]:
    return [int(number) for number in compute_capability.split(".")]


def _words(gpu: Gpu) -> list[str]:
    """`NVIDIA A100-SXM4-80GB` is an A100: a wanted name matches whole or as one word, or is the vendor's."""
    name = gpu.name.lower()
    return [name, name.replace(" ", ""), *name.replace("-", " ").split(), gpu.vendor.lower()]


@dataclass(frozen=True, slots=True)
class Demand:
    """The requirements of a job for its machine, and the limits of its owner."""

    cpus: Bounds
    memory_mib: Bounds
    disk_mib: Bounds
    arch: str | None = None
    """The architecture of processors: `x86` or `arm`."""
    gpu: GpuDemand | None = None
    backends: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    instance_types: tuple[str, ...] = ()
    max_price: float | None = None
    spot: str = "on-demand"
    """`spot`, `on-demand` or `auto`."""
    reservation: str | None = None
    fleets: tuple[str, ...] = ()
    instance_name: str | None = None
    reuse_only: bool = False
    """Whether no machine may be bought for it."""
    container: tuple[str, ...] = ()
    """The fields that need a container engine, each as "`field: value`"."""
    container_optional: bool = False
    """Whether it asks for something that a container engine can grant, and that it can do without."""
    python: str | None = None
    """The version of Python it asks for, which a process can have as well as a container."""
    idle_duration_s: float | None = 300.0
    """The longest idle time of a machine that was bought for it; None without limit."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a machine that a job holds while it is there."""

    cpus: float = 0
    memory_mib: int = 0
    gpus: tuple[int, ...] = field(default=())
    """Indices of the cards that are the job's own."""
    container: bool = False
    """Whether the job runs in a container there, and not as a process."""


NO_SHARE = Share()


def demand_to_json(demand: Demand) -> dict[str, Any]:
    """A demand as a JSON column holds it."""
    plain: dict[str, Any] = to_plain(demand)
    return plain


def demand_of_json(body: dict[str, Any]) -> Demand:
    """The demand that `demand_to_json` wrote."""
    gpu = body["gpu"]
    return Demand(
        cpus=Bounds(**body["cpus"]),
        memory_mib=Bounds(**body["memory_mib"]),
        disk_mib=Bounds(**body["disk_mib"]),
        arch=body.get("arch"),
        gpu=None if gpu is None else _gpu_demand_of_json(gpu),
        backends=tuple(body["backends"]),
        regions=tuple(body["regions"]),
        instance_types=tuple(body["instance_types"]),
        max_price=body["max_price"],
        spot=body["spot"],
        reservation=body["reservation"],
        fleets=tuple(body["fleets"]),
        instance_name=body["instance_name"],
        reuse_only=body["reuse_only"],
        container=tuple(body["container"]),
        container_optional=body.get("container_optional", False),
        python=body.get("python"),
        idle_duration_s=body["idle_duration_s"],
    )


def offer_of_json(body: dict[str, Any]) -> Offer:
    """The offer in a JSON column."""
    resources = msgspec.convert(body["resources"], HostResources)
    return Offer(**{**body, "resources": resources, "runtime": Runtime(body["runtime"])})


def _gpu_demand_of_json(body: dict[str, Any]) -> GpuDemand:
    def bounds(name: str) -> Bounds | None:
        return None if body[name] is None else Bounds(**body[name])

    return GpuDemand(
        count=Bounds(**body["count"]),
        vendor=body["vendor"],
        names=tuple(body["names"]),
        memory_mib=bounds("memory_mib"),
        total_memory_mib=bounds("total_memory_mib"),
        compute_capability=body["compute_capability"],
    )


def container_wishes(demand: Demand, has: HostResources) -> tuple[str, ...]:
    """Return what only a container can grant on a machine, each as "`field: value`".

    A version of Python is such a wish only where the machine has no interpreter of it.
    """
    return wishes_for_container(demand.container, demand.python, has.pythons)


def wishes_for_container(fields: tuple[str, ...], python: str | None, pythons: tuple[str, ...]) -> tuple[str, ...]:
    """Return what only a container can grant: the fields that need one, and a missing version of Python."""
    if python is None or python in pythons:
        return fields
    return *fields, f"`python: {python}` (the machine has {', '.join(pythons) or 'none'})"


def runtimes_for(demand: Demand, offer: Offer) -> tuple[Runtime, ...]:
    """Return the ways in which the job can run on a machine of this offer, the preferred one first."""
    has = offer.resources
    if container_wishes(demand, has):
        return (Runtime.CONTAINER,) if has.engine is not None else ()
    if has.engine is None:
        return (Runtime.PROCESS,)
    if offer.runtime is Runtime.CONTAINER or demand.container_optional:
        return Runtime.CONTAINER, Runtime.PROCESS
    return Runtime.PROCESS, Runtime.CONTAINER


def gang_runtime(demand: Demand, offers: Sequence[Offer]) -> Runtime | None:
    """Return the preferred runtime that all nodes of a gang can have; None without one.

    Args:
        offers: those of the machines of all nodes, as their agents found them.
    """
    possible = [runtimes_for(demand, offer) for offer in offers]
    return next((one for one in possible[0] if all(one in others for others in possible)), None)


@lru_cache(4096)
def describe(resources: HostResources) -> str:
    """Return the resources of a machine on one line: `2xCPU, 8GB, 100GB (disk), 1xA100 (40GB)`.

    Clouds sell each kind of machine in many places, so texts are remembered.
    """
    parts = [f"{resources.cpus}xCPU", memory_text(resources.memory_mib), f"{memory_text(resources.disk_mib)} (disk)"]
    kinds: dict[Gpu, int] = {}
    for gpu in (gpu for gpu in resources.gpus if not gpu.gone):
        kinds[gpu] = kinds.get(gpu, 0) + 1
    parts += [f"{count}x{gpu.name} ({memory_text(gpu.memory_mib)})" for gpu, count in kinds.items()]
    return ", ".join(parts)


def share_of(demand: Demand, offer: Offer) -> Share:
    """Return a job's share of an empty machine that fits it: all of it, or the required part of a shared one.

    Without requirements of the user, a job gets one core and that core's part of the memory. So as many such jobs run
    at once as there are cores. On a machine of equal blocks it gets the fewest blocks that are enough.
    """
    has = offer.resources
    container = runtimes_for(demand, offer)[0] is Runtime.CONTAINER
    if not offer.is_shared:
        cards = tuple(index for index, gpu in enumerate(has.gpus) if not gpu.gone)
        return Share(has.cpus, has.memory_mib, cards, container)
    cpus = demand.cpus.min or 1 if demand.cpus.written else 1
    memory_mib = demand.memory_mib.min or 0 if demand.memory_mib.written else has.memory_mib / max(1, has.cpus) * cpus
    cards = gpus_for(demand, has.gpus, taken=frozenset()) or ()
    if offer.blocks is not None:
        return replace(_whole_blocks(offer.blocks, has, cpus, memory_mib, cards), container=container)
    return Share(cpus, int(min(memory_mib, has.memory_mib)), cards, container)


def _whole_blocks(blocks: int, has: HostResources, cpus: float, memory_mib: float, cards: tuple[int, ...]) -> Share:
    parts = [cpus / has.cpus, memory_mib / has.memory_mib, len(cards) / max(1, len(has.gpus))]
    number = min(blocks, max(1, *(ceil(part * blocks - TINY) for part in parts)))
    return Share(has.cpus * number / blocks, has.memory_mib * number // blocks, cards)


def gpus_for(demand: Demand, gpus: tuple[Gpu, ...], *, taken: frozenset[int]) -> tuple[int, ...] | None:
    """The cards a job would get, lowest index first and as few as will do; None where too few are free.

    A job that can do without any gets one where there is one.
    """
    return () if demand.gpu is None else gpus_among(demand.gpu, gpus, taken=taken)


def gpus_among(asked: GpuDemand, gpus: tuple[Gpu, ...], *, taken: frozenset[int]) -> tuple[int, ...] | None:
    """Return the cards for a job, lowest index first; None where too few are free."""
    free = [index for index, gpu in enumerate(gpus) if index not in taken and asked.fits(gpu)]
    count, total_mib = asked.count, asked.total_memory_mib
    least = int(count.min or 0)
    if len(free) < least:
        return None
    if total_mib is None:
        return tuple(free[: max(1, least)])
    most = len(free) if count.max is None else min(int(count.max), len(free))
    groups = (tuple(free[:number]) for number in range(max(1, least), most + 1))
    return next((own for own in groups if total_mib.holds(sum(gpus[index].memory_mib for index in own))), None)
