"""The case of a program that ignores `PORT`: it listens elsewhere, and waits there for requests that never come."""

from collections.abc import Collection
from dataclasses import dataclass

from dstack.kit.text import first_of

WAITS_FOR_S = 30.0
"""A replica that has listened elsewhere for so long, and done nothing meanwhile, fails."""
IDLE_CORES = 0.02
"""A program that uses more still starts: model servers open ports of their own long before they listen at theirs."""

PORTS_SHOWN = 5


@dataclass(slots=True)
class WrongPort:
    """The other ports at which a replica listens, and the time since which it only listens there."""

    port: int
    """At which it should listen."""
    others: frozenset[int] = frozenset()
    _since_s: float = 0.0
    _seen_s: float = 0.0
    _cpu_s: float | None = None

    def took(self, now_s: float, ports: Collection[int], cpu_s: float | None) -> bool:
        """Note a look. Returns whether the replica has waited in vain long enough.

        Args:
            ports: all at which it listens.
            cpu_s: its time on processors so far; None if it is not known, which counts as busy.
        """
        others = frozenset(ports) - {self.port}
        is_busy = cpu_s is None or self._cpu_s is None or cpu_s - self._cpu_s > IDLE_CORES * (now_s - self._seen_s)
        if self.port in ports or not others or others != self.others or is_busy:
            self._since_s = now_s
        self.others = frozenset() if self.port in ports else others
        self._seen_s, self._cpu_s = now_s, cpu_s
        return bool(self.others) and now_s - self._since_s >= WAITS_FOR_S

    @property
    def hint(self) -> str:
        """Return where it listens instead; empty if it does not."""
        return f"it listens at {first_of(sorted(self.others), PORTS_SHOWN)}" if self.others else ""

    def failure(self, configured: int) -> str:
        """Return why the replica fails."""
        others = first_of(sorted(self.others), PORTS_SHOWN)
        told = "" if self.port == configured else f" (another job of the machine has {configured})"
        return (
            f"it listens at {others} and not at `$PORT`, which is {self.port}{told}: make the program listen at `$PORT`"
        )
