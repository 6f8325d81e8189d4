"""The machines on sale, and where their agents are."""

from pathlib import Path

from dstack.domain.offers import Offer
from dstack.protocol.agent import HostResources

BACKEND = "aws"
JOBS_PER_INSTANCE = 10
FOREVER = "simulate 1000000 0 0"
STAYS = f"{FOREVER}\n# stays"
"""The script of a job that is never chosen to end."""

SPARE_INSTANCES = 20
"""Room for the jobs that come and go while all others stay."""

RESOURCES = HostResources(cpus=JOBS_PER_INSTANCE, memory_mib=40_960, disk_mib=1_000_000)


def offer_of(instances: int) -> Offer:
    """A machine that ten jobs share, and how many of it there may be."""
    return Offer(
        BACKEND,
        "somewhere",
        "made-up",
        RESOURCES,
        0.1,
        blocks=None,
        exists=True,
        for_all=True,
        machines_max=instances + SPARE_INSTANCES,
    )


def agents_socket(folder: Path) -> Path:
    """Where all agents listen; who connects first says whose he wants, on one line."""
    return folder / "agents"


def own_socket(folder: Path, key: str) -> Path:
    """Where the agent of one machine listens, if it is not among the others."""
    return folder / f"agent-{key[-12:]}"


def control_socket(folder: Path) -> Path:
    """Where the hosts do what they are told: one JSON line each way."""
    return folder / "control"
