"""The shape of every lifecycle: statuses, the legal moves between them, and who acts in each.

Rule: a status changes nowhere but through `Lifecycle.check`, which is asked on each commit.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from dstack.errors import IllegalMove

S = TypeVar("S", bound=StrEnum)
F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class In(Generic[S, F]):
    """While in a status: `do` decides the next move, which must be one of `to`."""

    do: F
    to: tuple[S, ...]


@dataclass(frozen=True, slots=True)
class Lifecycle(Generic[S, F]):
    """One object's life on one page. A status without a row is final."""

    name: str
    start: S
    rows: Mapping[S, In[S, F]]

    def status_of(self, text: str) -> S:
        """The status of this name."""
        return type(self.start)(text)

    def step(self, status: S) -> F | None:
        """The step that acts in `status`; None where it is final."""
        row = self.rows.get(status)
        return row.do if row else None

    def is_final(self, status: S) -> bool:
        """Whether an object in `status` has ended."""
        return status not in self.rows

    def check(self, old: S, new: S) -> None:
        """Raise `IllegalMove` unless `old -> new` is declared. Staying put is always legal."""
        if old == new:
            return
        legal = self.rows[old].to if old in self.rows else ()
        if new not in legal:
            raise IllegalMove(f"{self.name} may not go from {old} to {new}; legal: {', '.join(legal) or 'none'}")

    def moves(self) -> Iterator[tuple[S, S]]:
        """Every legal move."""
        for old, row in self.rows.items():
            for new in row.to:
                yield old, new

    def mermaid(self) -> str:
        """The diagram in docs/lifecycles.md; a test keeps the two equal."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.start}"]
        lines += [f"    {old} --> {new}" for old, new in self.moves()]
        finals = sorted({new for _, new in self.moves() if self.is_final(new)})
        lines += [f"    {final} --> [*]" for final in finals]
        return "\n".join(lines)
