"""Reading the kernel's files about devices, below a folder that stands for `/`."""

import re
from collections.abc import Sequence
from pathlib import Path


def text(path: Path) -> str | None:
    """What a file says, without the space around it; None where it says nothing, or is not there."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def number(path: Path) -> int | None:
    """The number in a file, written as in C; None where there is none."""
    try:
        return int(text(path) or "", 0)
    except ValueError:
        return None


def in_order(paths: "Sequence[Path] | list[Path]") -> list[Path]:
    """Paths by the numbers in their names: `card2` comes before `card10`."""
    return sorted(paths, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])


def groups(root: Path, nodes: Sequence[str]) -> tuple[int, ...] | None:
    """The ids of the groups that may open these device files; None where one of them is not there."""
    try:
        return tuple(dict.fromkeys((root / node.lstrip("/")).stat().st_gid for node in nodes))
    except OSError:
        return None


def pci_name(device: Path) -> str:
    """A device that nobody has named, by the numbers of its vendor and model: `0x1002:0x74a1`."""
    return f"{text(device / 'vendor')}:{text(device / 'device')}"
