"""How busy this host's cards are."""

from dataclasses import dataclass

from dstack.agent.gpus import found


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """How busy one card is; None where it does not tell."""

    utilization_percent: float | None
    memory_used_mib: int | None
    """With what its driver keeps for itself."""


def read_gpu_usage() -> dict[int, GpuUsage]:
    """How busy each card is, by its index in `HostResources.gpus`. Blocks for moments, and never raises."""
    return {index: GpuUsage(*reading) for index, reading in enumerate(found.read())}
