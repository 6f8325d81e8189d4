"""What one job uses at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has used and uses; None for what cannot be told."""

    cpu_s: float | None
    """CPU time since its start, of all its processes together. It falls only where processes are lost sight of."""
    memory_mib: float | None
    """What it has in memory, without files that could be read again."""
