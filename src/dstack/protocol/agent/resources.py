"""The detected resources of a host."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card or accelerator of a host."""

    vendor: str
    """`nvidia`, `amd`, `intel` or `google`."""
    name: str
    """The model without its vendor; the PCI numbers of an unknown model, as `0x1002:0x74a1`."""
    memory_mib: int
    compute_capability: str | None = None
    """Of NVIDIA's: `9.0`."""
    gone: bool = False
    """It is not to be found any more, and has its place still, because of those behind it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine."""

    name: str
    """`docker` or `podman`."""
    version: str
    machine: str
    """As `uname -m` names it."""


@dataclass(frozen=True, slots=True)
class HostResources:
    """The detected resources of a host."""

    cpus: int
    memory_mib: int
    disk_mib: int
    """Free where jobs put their files."""
    gpus: tuple[Gpu, ...] = ()
    engine: Engine | None = None
    engine_problem: str = ""
    """Why there is no container engine, for people."""
    arch: str = ""
    """The architecture of its processors: `x86`, `arm`, another one's own name, or nothing where it is not known."""
    pythons: tuple[str, ...] = ()
    """The versions of Python, such as `3.12`, of which virtual environments can be made for processes."""
