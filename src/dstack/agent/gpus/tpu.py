"""Google's TPUs, as the hosts of its cloud have them: a device file a chip."""

from collections.abc import Sequence
from pathlib import Path

from dstack.agent.gpus import sysfs
from dstack.agent.gpus.cards import Card, Vendor
from dstack.protocol.agent import Gpu

GOOGLE = "0x1ae0"
"""The number of the PCI vendor; its disks and networks have it too."""
DISKS_AND_NETWORKS = ("0x01", "0x02")
"""How the classes of such devices begin."""
VFIO = "/dev/vfio/vfio"

GIB = 1024
CHIPS = {
    "0x0027": ("v3", 32 * GIB),
    "0x005e": ("v4", 32 * GIB),
    "0x0062": ("v5p", 95 * GIB),
    "0x0063": ("v5litepod", 16 * GIB),
    "0x006f": ("v6e", 32 * GIB),
    "0x0076": ("tpu7x", 192 * GIB),
}
"""Name, as in the names of Google's machine types, and memory by the number of the model."""
BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1"}
"""How so many chips of a host lie beside each other."""


class Google(Vendor):
    """TPU chips."""

    locks_memory = True

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def cards(self) -> list[Card]:
        devices = sorted((self._root / "sys/bus/pci/devices").glob("*"))
        chips = [device for device in devices if _is_chip(device)]
        cards = [self._card(number, chip) for number, chip in enumerate(chips)]
        return [card for card in cards if card is not None]

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        variables = {"TPU_VISIBLE_CHIPS": ",".join(names)}
        if len(names) < there and (bounds := BOUNDS.get(len(names))):
            # Without them a program waits for the chips that are not its own.
            variables |= {"TPU_CHIPS_PER_PROCESS_BOUNDS": bounds, "TPU_PROCESS_BOUNDS": "1,1,1"}
        return variables

    def _card(self, number: int, device: Path) -> Card | None:
        """A chip; None for one that no driver has a device file for."""
        accelerators = sorted(device.glob("accel/accel[0-9]*"))
        if accelerators:
            nodes: tuple[str, ...] = (f"/dev/{accelerators[0].name}",)
        else:
            nodes = (VFIO, f"/dev/vfio/{(device / 'iommu_group').resolve().name}")
        groups = sysfs.groups(self._root, nodes)
        if groups is None:
            return None
        name, memory_mib = CHIPS.get(sysfs.text(device / "device") or "", (sysfs.pci_name(device), 0))
        return Card(Gpu("google", name, memory_mib), number, nodes=nodes, groups=groups)


def _is_chip(device: Path) -> bool:
    return sysfs.text(device / "vendor") == GOOGLE and not (sysfs.text(device / "class") or "").startswith(
        DISKS_AND_NETWORKS
    )
