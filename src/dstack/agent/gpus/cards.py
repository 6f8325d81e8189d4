"""Cards, what each vendor can do with its own, and how jobs get theirs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from dstack.errors import AgentRefused
from dstack.protocol.agent import Gpu

Thing = TypeVar("Thing")
Reading: TypeAlias = tuple[float | None, int | None]
"""How busy a card is, in percent, and how many MiB of its memory are used; None where it does not tell."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card, with what only the agent of its host must know of it."""

    gpu: Gpu
    number: int
    """By which programs of this host know it among the cards of its kind."""
    id: str = ""
    """By which they know it wherever they see it, where there is such a name."""
    nodes: tuple[str, ...] = ()
    """The device files that a program needs for it, absolute."""
    groups: tuple[int, ...] = ()
    """The ids of the groups that may open them."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a container is given so that it has its cards and no others."""

    env: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    requests: tuple[Mapping[str, object], ...] = ()
    """The engine's `DeviceRequests`."""
    locks_memory: bool = False
    """Whether it may lock as much memory as it wants."""

    def __or__(self, other: "Grant") -> "Grant":
        return Grant(
            {**self.env, **other.env},
            _unique(*self.nodes, *other.nodes),
            _unique(*self.groups, *other.groups),
            (*self.requests, *other.requests),
            self.locks_memory or other.locks_memory,
        )


NOTHING = Grant()


class Vendor(ABC):
    """One kind of cards. All of it blocks."""

    locks_memory = False
    """Whether programs must lock memory to use such a card."""

    @abstractmethod
    def cards(self) -> list[Card]:
        """Those of this host that work, always in the same order."""

    @abstractmethod
    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        """The variables by which a program finds some of the cards that it could reach, and no others.

        Args:
            names: of the cards, numbers or ids; perhaps none.
            there: how many it could reach.
        """

    def read(self, card: Card) -> Reading:
        """How busy a card is."""
        return None, None

    def grant(self, own: Sequence[Card]) -> Grant:
        """What a container is given for its cards, perhaps none: their device files.

        Its variables win over those of `visible`.
        """
        nodes = _unique(*(node for card in own for node in card.nodes))
        groups = _unique(*(group for card in own for group in card.groups))
        return Grant({}, nodes, groups, locks_memory=self.locks_memory and bool(own))


@dataclass(frozen=True, slots=True)
class Cards:
    """All cards of a host. A card's index is its place here, and in `HostResources.gpus`."""

    found: tuple[tuple[Vendor, Card], ...] = ()

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """What the server is told of them."""
        return tuple(card.gpu for _, card in self.found)

    def visible(self, indices: Sequence[int]) -> dict[str, str]:
        """The variables by which a process of the host finds its own cards alone, perhaps none.

        Raises:
            AgentRefused: there is no such card.
        """
        variables: dict[str, str] = {}
        for vendor, own, there in self._by_vendor(indices):
            variables |= vendor.visible([str(card.number) for card in own], there)
        return variables

    def grant(self, indices: Sequence[int], *, privileged: bool = False) -> Grant:
        """What a container is given so that it has its own cards alone, perhaps none.

        Args:
            privileged: whether it sees all devices of the host, whatever it is given.

        Raises:
            AgentRefused: there is no such card.
        """
        everything = NOTHING
        for vendor, own, there in self._by_vendor(indices):
            env: dict[str, str] = {}
            if privileged:
                # Whether its programs count the other cards too depends on the engine's version: an id says it anyhow.
                env = vendor.visible([card.id or str(card.number) for card in own], there)
            elif own:
                env = vendor.visible([str(number) for number in range(len(own))], len(own))
            everything |= Grant(env) | vendor.grant(own)
        return everything

    def _by_vendor(self, indices: Sequence[int]) -> Iterator[tuple[Vendor, list[Card], int]]:
        """For each kind of cards that is there: those among the indices, and how many there are."""
        for index in indices:
            if not 0 <= index < len(self.found):
                count = f"{len(self.found) or 'no'} {'GPU' if len(self.found) == 1 else 'GPUs'} to be found"
                raise AgentRefused(
                    f"The job was given the GPU number {index} of a machine with {count}",
                    hint="Check its GPUs with `nvidia-smi` and `dmesg`",
                )
        for one in dict.fromkeys(vendor for vendor, _ in self.found):
            own = [self.found[index][1] for index in sorted(indices) if self.found[index][0] is one]
            yield one, own, sum(vendor is one for vendor, _ in self.found)


def _unique(*values: Thing) -> tuple[Thing, ...]:
    return tuple(dict.fromkeys(values))
