"""Intel's cards: graphics cards with memory of their own, and the accelerators named Gaudi."""

from collections.abc import Sequence
from pathlib import Path

from dstack.agent.gpus import sysfs
from dstack.agent.gpus.cards import Card, Grant, Vendor
from dstack.protocol.agent import Gpu

INTEL, HABANA = "0x8086", "0x1da3"
"""The numbers of PCI vendors."""
PART_OF_THE_CPU = ":00:02."
"""Where graphics without memory of their own are on the PCI bus."""
NOBODY = "255"
"""A card that no machine has: an empty mask shows all."""

GIB = 1024
GRAPHICS = {
    "0x0bd5": ("Max 1550", 128 * GIB),
    "0x0bda": ("Max 1100", 48 * GIB),
    "0x56a0": ("Arc A770", 16 * GIB),
    "0x56a1": ("Arc A750", 8 * GIB),
    "0x56c0": ("Flex 170", 16 * GIB),
    "0x56c1": ("Flex 140", 6 * GIB),
    "0xe20b": ("Arc B580", 12 * GIB),
    "0xe20c": ("Arc B570", 10 * GIB),
    "0xe211": ("Arc Pro B60", 24 * GIB),
    "0xe212": ("Arc Pro B50", 16 * GIB),
}
"""Name and memory by the number of the model; the memory is used where the driver does not tell."""
GAUDIS = {
    "0x1000": ("Gaudi", 32 * GIB),
    "0x1010": ("Gaudi", 32 * GIB),
    "0x1020": ("Gaudi2", 96 * GIB),
    "0x1060": ("Gaudi3", 128 * GIB),
}


class IntelGraphics(Vendor):
    """Graphics cards with memory of their own."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def cards(self) -> list[Card]:
        renders = {
            (render / "device").resolve(): render.name
            for render in (self._root / "sys/class/drm").glob("renderD*")
            if sysfs.text(render / "device/vendor") == INTEL
        }
        in_order = sorted(renders, key=lambda device: device.name)
        found = [self._card(number, device, renders[device]) for number, device in enumerate(in_order)]
        return [card for card in found if card is not None]

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        return {"ZE_AFFINITY_MASK": ",".join(names) or NOBODY, "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"}

    def _card(self, number: int, device: Path, render_node: str) -> Card | None:
        nodes = (f"/dev/dri/{render_node}",)
        groups = sysfs.groups(self._root, nodes)
        if groups is None or PART_OF_THE_CPU in device.name:
            return None
        model = sysfs.text(device / "device") or ""
        name, usual_mib = GRAPHICS.get(model, (sysfs.pci_name(device), 0))
        told = [*device.glob("tile*/physical_vram_size_bytes"), *device.glob("drm/card*/lmem_total_bytes")]
        memory_bytes = sum(sysfs.number(file) or 0 for file in told)
        return Card(Gpu("intel", name, memory_bytes >> 20 or usual_mib), number, nodes=nodes, groups=groups)


class Gaudi(Vendor):
    """Gaudi accelerators. One opens for one program at a time, so that nobody takes another's."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def cards(self) -> list[Card]:
        folders = sysfs.in_order(list((self._root / "sys/class/accel").glob("accel[0-9]*")))
        cards = [self._card(folder) for folder in folders if sysfs.text(folder / "device/vendor") == HABANA]
        return [card for card in cards if card is not None]

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        return {"HABANA_VISIBLE_DEVICES": ",".join(names) or "void"}

    def grant(self, own: Sequence[Card]) -> Grant:
        # Where Habana's runtime is the engine's default, it is told by this variable which of the host's to give.
        return super().grant(own) | Grant(self.visible([str(card.number) for card in own], len(own)))

    def _card(self, folder: Path) -> Card | None:
        number = int(folder.name.removeprefix("accel"))
        nodes = (f"/dev/accel/accel{number}", f"/dev/accel/accel_controlD{number}")
        groups = sysfs.groups(self._root, nodes)
        if groups is None:
            return None
        model = sysfs.text(folder / "device/device") or ""
        name, memory_mib = GAUDIS.get(model, (sysfs.pci_name(folder / "device"), 0))
        return Card(Gpu("intel", name, memory_mib), number, nodes=nodes, groups=groups)
