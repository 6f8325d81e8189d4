"""The offers that fit a submit, and why others do not, in words."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dstack.domain.market import Market, without
from dstack.domain.misfits import Cards, Misfit, NoEngine, Reason, Size, Source, Wishes, answers_of, questions_of
from dstack.domain.objects import Job
from dstack.domain.offers import Bounds, Demand, GpuDemand, Offer, OfferName, describe, wishes_for_container
from dstack.domain.placement import can_ever_place
from dstack.errors import InvalidRequestError, NoCapacityError
from dstack.kit.text import memory_text
from dstack.operations.context import Action, Context, authorize
from dstack.spec.backends import is_type, why_unknown
from dstack.store import backends
from dstack.store.tx import Tx
from dstack.store.users import User

OFFERS_SHOWN_MAX = 50
NONE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class OnSale:
    """The offers at the time of a request."""

    market: Market
    """All offers, also those of other projects: the queue has the jobs of all projects."""
    own: Market
    """The offers that the project may buy."""
    absent: Mapping[str, str]
    """The project's backends without offers, each with the reason."""


async def on_sale(context: Context, user: User, project: str, demand: Demand) -> OnSale:
    """Return the offers for a request to run something in a project.

    Raises:
        ForbiddenError, ResourceNotExistsError: the user may not run anything there.
        InvalidRequestError: the request names a backend that the project does not have.
    """
    market = await context.catalog.market()
    names = [word for word in demand.backends if not is_type(word)]
    if not names and not context.backends.are_of_projects:  # then the project makes no difference
        return OnSale(market, market, context.catalog.absent())

    def read(tx: Tx) -> str:
        project_id = authorize(tx, user, project, Action.RUN).project.id
        if names:
            _check_names(names, backends.names_usable_by(tx, project_id))
        return project_id

    project_id = await context.db.read(read)
    return OnSale(market, market.for_project(project_id), context.catalog.absent(project_id))


def _check_names(names: Iterable[str], known: Collection[str]) -> None:
    mistakes = [why for name in names if (why := why_unknown(name, known)) is not None]
    if mistakes:
        raise InvalidRequestError(f"`backends`: {'; '.join(mistakes)}", hint="`dstack backend list` shows all")


def refusals_of(demand: Demand, market: Market, absent: Mapping[str, str] = NONE) -> list[str]:
    """Return why offers do not fit, and what they are: those that lack least first, and of these the cheapest.

    Args:
        absent: the backends without offers, each with the reason; they come last.
    """
    questions = questions_of(demand)
    nearest = (_refusal(answers_of(questions, offer), offer) for offer in market.nearest(demand, OFFERS_SHOWN_MAX))
    return [
        *dict.fromkeys(nearest),  # one line for the same machine of several backends of a type
        *(f"{name}: {why}" for name, why in sorted(absent.items())),
    ]


@dataclass(frozen=True, slots=True)
class Judged:
    """The market, judged by the requirements of a plan."""

    best: Sequence[Offer]
    """The cheapest offers that fit."""
    total: int
    """The number of all that fit."""
    max_price: float | None
    """The highest price of those that fit, in US dollars an hour."""
    refusals: list[str]


def judge(demand: Demand, market: Market, absent: Mapping[str, str]) -> Judged:
    """Return the offers that fit, and why others do not.

    Args:
        absent: the backends without offers, each with the reason.
    """
    fitting = market.fitting(demand)
    max_price = market[fitting.bit_length() - 1].price if fitting else None
    best = market.select(fitting, OFFERS_SHOWN_MAX)
    return Judged(best, fitting.bit_count(), max_price, refusals_of(demand, market, absent))


InUse: TypeAlias = Callable[[], Mapping[OfferName, int]]
"""Returns how many machines of each offer exist."""


def with_nodes(judged: Judged, jobs: Sequence[Job], market: Market, in_use: InUse) -> Judged:
    """Return what fits; nothing, if no backend ever has the machines for all nodes of a run at once."""
    if not judged.best:
        return judged
    if len(jobs) > 1 and not can_ever_place(jobs, market):
        return Judged((), 0, None, [f"no backend has the machines for {len(jobs)} nodes at once", *judged.refusals])
    closed = _without_quota(jobs[0], market, in_use)
    return Judged((), 0, None, [*closed, *judged.refusals]) if closed else judged


def check_nodes(jobs: Sequence[Job], market: Market, in_use: InUse) -> None:
    """Raise unless all nodes of a run would fit together on free machines.

    Raises:
        NoCapacityError: no backend has so many machines.
    """
    if closed := _without_quota(jobs[0], market, in_use):
        raise NoCapacityError(
            f"No machine fits: {'; '.join(closed)}",
            hint="Ask the cloud for a higher quota, or allow other regions and machines",
        )
    if len(jobs) > 1 and not can_ever_place(jobs, market):
        raise NoCapacityError(
            f"No backend has the machines for {len(jobs)} nodes at once", hint="Use fewer or smaller nodes"
        )


def _without_quota(job: Job, market: Market, in_use: InUse) -> list[str]:
    """Return the machines that fit, if none may ever be created and none exists; else nothing."""
    closed = market.buyable(job.demand, job.project_id)
    if without(closed, market.index.closed) or closed & market.named(in_use()):
        return []
    regions: dict[str, list[str]] = {}
    for offer in market.select(closed, OFFERS_SHOWN_MAX):
        regions.setdefault(f"{offer.title} ({describe(offer.resources)})", []).append(offer.region)
    return [f"{machine}: the quota is 0 in {', '.join(dict.fromkeys(some))}" for machine, some in regions.items()]


def check_offers(demand: Demand, market: Market, absent: Mapping[str, str]) -> None:
    """Raise unless some offer fits.

    Args:
        absent: the backends without offers, each with the reason.

    Raises:
        NoCapacityError: no offer fits; the message has the reasons.
    """
    if market.fitting(demand):
        return
    reasons = "; ".join(refusals_of(demand, market, absent)) or "no backend has offers"
    raise NoCapacityError(
        f"No machine fits: {reasons}", hint="Lower the requirements, or leave out the fields that do not fit"
    )


def _refusal(reasons: Iterable[Misfit], offer: Offer) -> str:
    return f"{offer.title} ({describe(offer.resources)}): {'; '.join(map(misfit_text, reasons))}"


def misfit_text(misfit: Misfit) -> str:
    """Return one reason in words, with the requirements and what there is."""
    text = _TEXTS.get(misfit.reason)
    return f"{misfit.reason}: asked {misfit.asked}, is {misfit.has}" if text is None else text(misfit.asked, misfit.has)


def _one_of(reason: Reason) -> Callable[[tuple[str, ...], str], str]:
    return lambda asked, has: f"{reason}: asked {', '.join(asked)}, is {has}"


def _source(has: Source) -> str:
    return has.type if has.name == has.type else f"{has.name} ({has.type})"


def _size(reason: Reason, show: Callable[[float], str]) -> Callable[[Bounds, Size], str]:
    return lambda asked, has: f"{reason}: asked {_show(asked, show)}, has {show(has.value)}"


def _cards(asked: GpuDemand, has: Cards) -> str:
    wanted = " ".join(filter(None, [asked.vendor, ",".join(asked.names)]))
    if asked.memory_mib is not None:
        wanted = f"{wanted} with memory {_show(asked.memory_mib, memory_text)}".strip()
    there = ", ".join(f"{gpu.name} ({memory_text(gpu.memory_mib)})" for gpu in has.gpus if not gpu.gone) or "none"
    return f"gpu: asked {_show(asked.count, _count)} {wanted}".rstrip() + f", has {there}"


def _compute_capability(asked: GpuDemand, has: Cards) -> str:
    told = [gpu.compute_capability for gpu in has.gpus if asked.is_like(gpu) and gpu.compute_capability is not None]
    there = f"has {', '.join(dict.fromkeys(told))}" if told else "its own is not known"
    return f"gpu.compute_capability: asked {asked.compute_capability}, {there}"


def _total_memory(asked: GpuDemand, has: Cards) -> str:
    assert asked.total_memory_mib is not None
    total = sum(gpu.memory_mib for gpu in has.gpus if asked.fits(gpu))
    return f"gpu.total_memory: asked {_show(asked.total_memory_mib, memory_text)}, has {memory_text(total)}"


def _container(asked: Wishes, has: NoEngine) -> str:
    wishes = wishes_for_container(asked.fields, asked.python, has.pythons)
    why = f" ({has.problem})" if has.problem else ""
    need = "needs" if len(wishes) == 1 else "need"
    return f"{' and '.join(wishes)} {need} a container, and there is no container engine{why}"


def _count(value: float) -> str:
    return f"{value:g}"


def _show(bounds: Bounds, show: Callable[[float], str]) -> str:
    if bounds.min == bounds.max and bounds.min is not None:
        return show(bounds.min)
    return f"{'' if bounds.min is None else show(bounds.min)}..{'' if bounds.max is None else show(bounds.max)}"


_TEXTS: Mapping[Reason, Callable[..., str]] = {
    Reason.BACKEND: lambda asked, has: f"backends: asked {', '.join(asked)}, is {_source(has)}",
    Reason.REGION: _one_of(Reason.REGION),
    Reason.INSTANCE_TYPE: _one_of(Reason.INSTANCE_TYPE),
    Reason.PRICE: lambda asked, has: f"max_price: asked ${asked:g}, costs ${has:g}",
    Reason.RESERVATION: lambda asked, has: f"reservation: asked {asked}, has none",
    Reason.INSTANCE_NAME: lambda asked, has: f"instance_name: asked {asked}, has no name",
    Reason.FLEET: lambda asked, has: f"fleets: asked {', '.join(asked)}, is in {has}",
    Reason.CPUS: _size(Reason.CPUS, _count),
    Reason.MEMORY: _size(Reason.MEMORY, memory_text),
    Reason.DISK: _size(Reason.DISK, memory_text),
    Reason.ARCH: lambda asked, has: f"cpu: asked {asked}, is {has or 'of an unknown architecture'}",
    Reason.GPU: _cards,
    Reason.GPU_COMPUTE_CAPABILITY: _compute_capability,
    Reason.GPU_TOTAL_MEMORY: _total_memory,
    Reason.CONTAINER: _container,
}
"""How reasons are shown; the others have plain texts on both sides."""
