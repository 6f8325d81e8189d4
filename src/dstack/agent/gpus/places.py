"""The places of a host's cards: a number goes on meaning one card for as long as a job may hold it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dstack.agent.gpus.cards import Card, Vendor
from dstack.errors import AgentRefused
from dstack.kit.plain import from_plain
from dstack.protocol.agent import Gpu


@dataclass(frozen=True, slots=True)
class Place:
    """Which card has a place."""

    name: str
    gpu: Gpu


class Gone(Vendor):
    """Cards that are not to be found any more, and still have their places."""

    def cards(self) -> list[Card]:
        return []

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        if names:
            raise AgentRefused(
                "A GPU of the job is no longer found",
                hint="Check the machine's GPUs with `nvidia-smi` and `dmesg`",
            )
        return {}


GONE = Gone()


def arrange(places: Sequence[Place], found: Sequence[tuple[Vendor, Card]]) -> tuple[tuple[Vendor, Card], ...]:
    """The cards that have places, in those, and the others behind them."""
    left = {name_of(card): (vendor, card) for vendor, card in found}
    placed = [left.pop(place.name, (GONE, _gone(place))) for place in places]
    return (*placed, *left.values())


def _gone(place: Place) -> Card:
    return Card(replace(place.gpu, gone=True), -1, place.name)


def name_of(card: Card) -> str:
    """By which a card is known again: its id, or else its device files."""
    return card.id or ",".join(card.nodes) or f"{card.gpu.vendor} {card.number}"


def places_of(cards: Sequence[tuple[Vendor, Card]]) -> list[Place]:
    """The places that cards have."""
    return [Place(name_of(card), card.gpu) for _, card in cards]


def to_json(places: Sequence[Place]) -> dict[str, Any]:
    """Places, to be written down."""
    return {"places": [asdict(place) for place in places]}


def from_json(body: Mapping[str, Any]) -> list[Place]:
    """Places that were written down."""
    return [from_plain(Place, one) for one in body["places"]]
