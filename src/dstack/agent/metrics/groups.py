"""What a control group uses, from its files: 0.2 ms where the engine's own statistics take a second.

Both versions, and both at once: on a host that has both, one of them has the controller.
"""

from dataclasses import dataclass
from pathlib import Path

from dstack.agent.metrics.usage import Usage

MIB = 1 << 20
PROC = Path("/proc")
V1_CPU, V1_MEMORY = "cpuacct", "memory"


@dataclass(frozen=True, slots=True)
class _Mount:
    """A hierarchy of control groups, where it is mounted."""

    controllers: frozenset[str]
    """Those of version 1; none for version 2, which has one hierarchy for all."""
    root: str
    """The group that is seen at the mount point."""
    point: Path

    def folder(self, group: str) -> Path | None:
        """Where the files of a group are; None where they are outside of what is mounted."""
        inside = group.removeprefix(self.root) if self.root != "/" else group
        if inside.startswith("/..") or (self.root != "/" and not f"{group}/".startswith(f"{self.root}/")):
            return None
        return self.point / inside.lstrip("/")


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The files of one control group."""

    cpu: Path | None
    memory: Path | None

    def read(self) -> Usage:
        """What all processes of the group use together, those of groups below it among them."""
        return Usage(_cpu_s(self.cpu) if self.cpu else None, _memory_mib(self.memory) if self.memory else None)


def find_group(pid: int, name: str, proc: Path = PROC) -> ControlGroup | None:
    """The control group of a process.

    Args:
        name: what is in the group's path: a process of this number that is in no such group is another one, since who
            told us of it may count in a world of its own.

    Returns: None where there is no such process here, or its group cannot be seen.
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        mounts = _mounts(proc)
    except OSError:
        return None
    groups = {
        frozenset(filter(None, names.split(","))): path for _, names, path in (one.split(":", 2) for one in lines)
    }
    if not any(name in path for path in groups.values()):
        return None
    cpu, memory = _folder(V1_CPU, groups, mounts), _folder(V1_MEMORY, groups, mounts)
    return ControlGroup(cpu, memory) if cpu or memory else None


def _folder(controller: str, groups: dict[frozenset[str], str], mounts: list[_Mount]) -> Path | None:
    """Where version 1 has this controller, or else where version 2 has everything."""
    first = next((path for names, path in groups.items() if controller in names), None)
    second = groups.get(frozenset())
    places = [(first, mount) for mount in mounts if controller in mount.controllers]
    places += [(second, mount) for mount in mounts if not mount.controllers]
    folders = (mount.folder(group) for group, mount in places if group is not None)
    return next((folder for folder in folders if folder is not None and folder.is_dir()), None)


def _mounts(proc: Path) -> list[_Mount]:
    found = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        words, (type, _, options) = place.split(), kind.split(" ", 2)
        if type in ("cgroup", "cgroup2"):
            controllers = frozenset(options.split(",")) if type == "cgroup" else frozenset[str]()
            found.append(_Mount(controllers, words[3], Path(words[4])))
    return found


def _cpu_s(folder: Path) -> float | None:
    if (nanoseconds := _number(folder / "cpuacct.usage")) is not None:
        return nanoseconds / 1e9
    microseconds = _line(folder / "cpu.stat", "usage_usec")
    return None if microseconds is None else microseconds / 1e6


def _memory_mib(folder: Path) -> float | None:
    """The working set: what is in use, without files that the kernel would drop first."""
    for total, files in (("memory.usage_in_bytes", "total_inactive_file"), ("memory.current", "inactive_file")):
        if (used := _number(folder / total)) is not None:
            return max(0.0, used - (_line(folder / "memory.stat", files) or 0)) / MIB
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None


def _line(path: Path, name: str) -> int | None:
    """The number behind a name, in a file of such lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.removeprefix(name)) for line in lines if line.startswith(f"{name} ")), None)
