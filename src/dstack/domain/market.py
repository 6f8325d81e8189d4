"""The market: all offers as an immutable, versioned value, indexed by what decides whether they fit.

Offers stand in the order of their prices. A set of offers is an integer with one bit for each: bit 0 is the cheapest.
So 50,000 offers are compared with requirements by a few operations on numbers. A trait (`domain.misfits`) is asked once
for each value that occurs, and its answers are remembered for as long as the version lives.
"""

from bisect import bisect_right
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import or_
from typing import TypeAlias, TypeVar

from dstack.domain.misfits import BACKEND, PRICE, REGION, TRAITS, Trait, questions_of
from dstack.domain.offers import Demand, Offer, OfferName

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Offers: TypeAlias = int
"""A set of offers of one market."""

NO_OFFERS: Offers = 0

ANSWERS_MAX = 256
"""The bound of remembered answers for each trait: each takes up to 7 KB among 50,000 offers."""
DEMANDS_MAX = 1024
"""The bound of remembered demands."""
WINDOW_BITS = 512
_WINDOW = (1 << WINDOW_BITS) - 1
FEW = 64
"""A value with fewer offers has their places in a list: a number would be larger."""


class Market:
    """Everything on sale, as one version of it."""

    def __init__(self, index: "Index", version: int, everything: Offers, shunned: Sequence[Offers] = ()) -> None:
        self.index = index
        self.version = version
        self.everything = everything
        """The offers that this market shows."""
        self.shunned = shunned
        """Sets of offers that are bought only where no other one fits, the largest first."""

    @classmethod
    def of(cls, offers: Iterable[Offer], version: int = 0) -> "Market":
        """Return the market of some offers. Of those with one name, the cheapest counts."""
        by_price = sorted(offers, key=lambda one: (one.price, one.backend, one.region, one.instance_type, one.spot))
        cheapest: dict[OfferName, Offer] = {}
        for one in by_price:
            cheapest.setdefault(one.name, one)
        index = Index(tuple(cheapest.values()))
        return cls(index, version, (1 << len(index.offers)) - 1)

    def __len__(self) -> int:
        return self.everything.bit_count()

    def __getitem__(self, place: int) -> Offer:
        return self.index.offers[place]

    def without(self, hidden: Offers) -> "Market":
        """Return the same market, which does not show some offers."""
        return Market(self.index, self.version, without(self.everything, hidden), self.shunned) if hidden else self

    def without_backends(self, names: Collection[str]) -> "Market":
        """Return the same market, which shows no offers of some backends."""
        return self.without(self.index.of_backends(names)) if names else self

    def for_project(self, project_id: str | None) -> "Market":
        """Return the same market, which shows no offers of other projects' backends."""
        return self.without(self.index.foreign_to(project_id))

    def fitting(self, demand: Demand) -> Offers:
        """Return the offers that fit."""
        return self.index.fitting(demand) & self.everything

    def buyable(self, demand: Demand, project_id: str | None = None) -> Offers:
        """Return the offers of which a job may use a new machine, regardless of limits."""
        found, foreign = self.fitting(demand), self.index.foreign_to(project_id)
        found = without(found, foreign) if foreign else found
        return found & self.index.existing if demand.reuse_only else found

    def named(self, names: Iterable[OfferName]) -> Offers:
        """Return the offers with these names, so far as there are such."""
        found = NO_OFFERS
        for name in names:
            place = self.index.places.get(name)
            found |= 0 if place is None else 1 << place
        return found & self.everything

    def shunning(self, some: Sequence[Offer]) -> "Market":
        """Return the same market, in which other clouds come before those of some offers, and then other regions."""
        if not some:
            return self
        clouds = self.index.of_backends({one.backend for one in some})
        regions = NO_OFFERS
        for cloud, region in {(one.backend, one.region) for one in some}:
            regions |= self.index.of_backends((cloud,)) & self.index.of_region(region)
        return Market(self.index, self.version, self.everything, (clouds, regions))

    def is_limited(self, name: OfferName) -> bool:
        """Return whether it shows an offer of this name of which only so many machines may exist."""
        place = self.index.places.get(name)
        if place is None or self.index.offers[place].machines_max is None:
            return False
        return bool(self.everything >> place & 1)

    def select(self, some: Offers, most: int | None = None) -> list[Offer]:
        """Return offers, cheapest first."""
        return [self.index.offers[place] for place in islice(places_in(some), most)]

    def nearest(self, demand: Demand, most: int) -> list[Offer]:
        """Return offers that do not fit: those that lack least first, and of these the cheapest."""
        lacking = [self.everything]  # at place k: the offers that lack k of what was counted so far
        for fitting in self.index.answers(demand):
            kept = [some & fitting for some in lacking]
            moved = [without(some, fitting) for some in lacking]
            lacking = [stay | come for stay, come in zip([*kept, 0], [0, *moved], strict=True)]
        found: list[Offer] = []
        for some in lacking[1:]:
            found += self.select(some, most - len(found))
        return found


class Index:
    """Offers in the order of their prices, and for each trait the offers by value."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.offers = offers
        self.places: Mapping[OfferName, int] = {offer.name: place for place, offer in enumerate(offers)}
        self._prices = [offer.price for offer in offers]
        kinds = _by_kind(offers)
        self._columns = {trait: None if trait is PRICE else _column(trait, offers, kinds) for trait in TRAITS}
        self.existing: Offers = set_of((place for place, one in enumerate(offers) if one.exists), len(offers))
        self.closed: Offers = set_of(
            (place for place, one in enumerate(offers) if one.machines_max is not None and one.machines_max <= 0),
            len(offers),
        )
        """The offers of which no machine may exist."""
        self._of_project = _by_project(offers)
        self._of_projects: Offers = reduce(or_, self._of_project.values(), NO_OFFERS)
        self._fitting: dict[Demand, Offers] = {}
        self._asked: dict[int, tuple[Demand, Offers]] = {}
        """The same by identity: the demands of the queue live long, and comparing them takes longer than all else."""

    def foreign_to(self, project_id: str | None) -> Offers:
        """Return the offers that only other projects may buy."""
        return self._of_projects and without(self._of_projects, self._of_project.get(project_id, NO_OFFERS))

    def fitting(self, demand: Demand) -> Offers:
        """Return the offers that fit."""
        asked = self._asked.get(id(demand))
        if asked is not None and asked[0] is demand:
            return asked[1]
        found = self._fitting.get(demand)
        if found is None:
            found = (1 << len(self.offers)) - 1
            for fitting in self.answers(demand):
                found &= fitting
            _remember(self._fitting, demand, found, DEMANDS_MAX)
        _remember(self._asked, id(demand), (demand, found), DEMANDS_MAX)
        return found

    def answers(self, demand: Demand) -> Iterator[Offers]:
        """Return for each trait that the demand asks about the offers that fit."""
        for trait, asked in questions_of(demand):
            column = self._columns[trait]
            if column is not None:
                yield column.fitting(asked)
            else:
                assert isinstance(asked, float | int)
                yield (1 << bisect_right(self._prices, asked)) - 1

    def of_backends(self, names: Collection[str]) -> Offers:
        """Return the offers of some backends."""
        column = self._columns[BACKEND]
        assert column is not None
        return column.fitting(tuple(sorted(names)))

    def of_region(self, name: str) -> Offers:
        """Return the offers of a region, of any backend."""
        column = self._columns[REGION]
        assert column is not None
        return column.fitting((name,))


class _Column:
    """The offers by the value of one trait."""

    def __init__(self, trait: Trait, by_value: Mapping[Hashable, Sequence[int]], size: int) -> None:
        self._judge = trait.judge
        self._size = size
        self._many = [(value, set_of(some, size)) for value, some in by_value.items() if len(some) >= FEW]
        self._few = [(value, some) for value, some in by_value.items() if len(some) < FEW]
        self._answers: dict[Hashable, Offers] = {}

    def fitting(self, asked: Hashable) -> Offers:
        """Return the offers whose value is what is asked for."""
        found = self._answers.get(asked)
        if found is None:
            judge = self._judge
            some = [place for value, places in self._few if judge(asked, value) is None for place in places]
            found = set_of(some, self._size)
            for value, offers in self._many:
                if judge(asked, value) is None:
                    found |= offers
            _remember(self._answers, asked, found, ANSWERS_MAX)
        return found


_Kinds: TypeAlias = Sequence[tuple[Offer, Sequence[int]]]
"""One offer of each kind of machine, and the places of all."""


def _by_kind(offers: Sequence[Offer]) -> _Kinds:
    """Group offers by the hardware and the uses of their machines: clouds sell each kind in many places."""
    kinds: dict[Hashable, tuple[Offer, list[int]]] = {}
    same: dict[Hashable, tuple[Offer, list[int]]] = {}  # drivers share one object: comparing it by value takes longer
    for place, one in enumerate(offers):
        cheap = id(one.resources), one.is_shared, one.exists
        kind = same.get(cheap)
        if kind is None:
            kind = kinds.setdefault((one.resources, one.is_shared, one.exists), (one, []))
            same[cheap] = kind
        kind[1].append(place)
    return list(kinds.values())


def _by_project(offers: Sequence[Offer]) -> Mapping[str | None, Offers]:
    """Return the offers that only one project may buy, by the project's id."""
    places: dict[str | None, list[int]] = {}
    for place, one in enumerate(offers):
        if one.project_id is not None:
            places.setdefault(one.project_id, []).append(place)
    return {project_id: set_of(some, len(offers)) for project_id, some in places.items()}


def _column(trait: Trait, offers: Sequence[Offer], kinds: _Kinds) -> _Column:
    by_value: dict[Hashable, list[int]] = {}
    if trait.is_of_kind:
        for first, places in kinds:
            by_value.setdefault(trait.has(first), []).extend(places)
    else:
        for place, one in enumerate(offers):
            by_value.setdefault(trait.has(one), []).append(place)
    return _Column(trait, by_value, len(offers))


def set_of(places: Iterable[int], size: int) -> Offers:
    """Return the set with these places, each below `size`."""
    bits = bytearray(size // 8 + 1)
    for place in places:
        bits[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(bits, "little")


def places_in(some: int) -> Iterator[int]:
    """Return the places of the bits of a set, lowest first."""
    start = 0
    while some:
        lowest = (some ^ (some - 1)).bit_length() - 1
        some >>= lowest
        start += lowest
        window = some & _WINDOW  # operations on small numbers take a tenth of the time
        while window:
            rest = window & (window - 1)
            yield start + (window ^ rest).bit_length() - 1
            window = rest
        some >>= WINDOW_BITS
        start += WINDOW_BITS


def without(some: int, others: int) -> int:
    """Return a set without the members of another one."""
    return some ^ (some & others)


def _remember(memo: dict[K, V], key: K, value: V, most: int) -> None:
    """Keep an answer. Where there are too many, all are forgotten: several threads may ask at once."""
    if len(memo) >= most:
        memo.clear()
    memo[key] = value


EMPTY = Market.of(())
