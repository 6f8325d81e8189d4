"""What this host really has: after affinity and control groups, not what the machine around it has."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from dstack.agent.containers.sockets import probe_engine
from dstack.agent.gpus.found import detect_gpus
from dstack.agent.pythons import find_pythons, versions_of
from dstack.protocol.agent import HostResources

MIB = 1 << 20
_ARCHITECTURES = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}
"""What configurations call the machines of `uname -m`."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def probe(home: Path) -> HostResources:
    """What jobs can have here. Blocks, for seconds where the driver of a card is slow.

    Args:
        home: a folder on the disk that jobs put their files on.
    """
    engine = probe_engine()
    return HostResources(
        cpus=_cpus(),
        memory_mib=_memory_bytes() // MIB,
        disk_mib=shutil.disk_usage(home).free // MIB,
        gpus=detect_gpus(),
        engine=None if isinstance(engine, str) else engine,
        engine_problem=engine if isinstance(engine, str) else "",
        arch=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        pythons=versions_of(find_pythons()),
    )


def _cpus() -> int:
    cpus = float(len(os.sched_getaffinity(0)))
    for folder in _group_folders("cpu"):
        quota = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0].isdigit():
            cpus = min(cpus, int(quota[0]) / int(quota[1]))
    return max(1, int(cpus))


def _memory_bytes() -> int:
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _group_folders("memory"):
        limit = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        if limit and limit[0].isdigit():
            memory_bytes = min(memory_bytes, int(limit[0]))
    return memory_bytes


def _group_folders(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, for one controller (versions 1 and 2)."""
    for line in _lines(Path("/proc/self/cgroup")):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = CONTROL_GROUPS
        elif controller in controllers.split(","):
            root = CONTROL_GROUPS / controller
        else:
            continue
        # Inside a container the path may be the outside's; the root then is this container's own.
        folder = root / path.lstrip("/")
        while folder != root:
            yield folder
            folder = folder.parent
        yield root


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
