"""AMD's cards: those that can compute, as the kernel's `amdkfd` lists them."""

from collections.abc import Sequence
from pathlib import Path

from dstack.agent.gpus import sysfs
from dstack.agent.gpus.cards import Card, Reading, Vendor
from dstack.protocol.agent import Gpu

DRIVER = "/dev/kfd"
"""The device file that all cards share."""
FIRST_RENDER_NODE = 128
NAMES = {
    "0x738c": "Instinct MI100",
    "0x7408": "Instinct MI250X",
    "0x740c": "Instinct MI250X",
    "0x740f": "Instinct MI210",
    "0x74a0": "Instinct MI300A",
    "0x74a1": "Instinct MI300X",
    "0x74a2": "Instinct MI308X",
    "0x74a5": "Instinct MI325X",
    "0x74b5": "Instinct MI300X",
    "0x75a0": "Instinct MI350X",
    "0x75a3": "Instinct MI355X",
}
"""By the number of the model, where the card does not tell its name."""


class Amd(Vendor):
    """Cards that AMD's driver knows."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def cards(self) -> list[Card]:
        nodes = sysfs.in_order(list((self._root / "sys/class/kfd/kfd/topology/nodes").glob("[0-9]*")))
        renders = [minor for node in nodes if (minor := _render_node(node)) is not None]
        cards = [self._card(number, minor) for number, minor in enumerate(renders)]
        return [card for card in cards if card is not None]

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        variables = {"ROCR_VISIBLE_DEVICES": ",".join(names)}
        if names:
            # HIP counts what ROCr shows. Unset, it would take the variable that is meant for cards of NVIDIA's.
            variables["HIP_VISIBLE_DEVICES"] = ",".join(str(number) for number in range(len(names)))
        return variables

    def read(self, card: Card) -> Reading:
        device = self._device(card.nodes[-1])
        used_bytes = sysfs.number(device / "mem_info_vram_used")
        return sysfs.number(device / "gpu_busy_percent"), None if used_bytes is None else used_bytes >> 20

    def _card(self, number: int, minor: int) -> Card | None:
        """A card; None for one without device files, as containers have it, or without memory of its own."""
        nodes = (DRIVER, f"/dev/dri/renderD{minor}")
        device = self._device(nodes[-1])
        groups, memory_bytes = sysfs.groups(self._root, nodes), sysfs.number(device / "mem_info_vram_total")
        if groups is None or memory_bytes is None:
            return None
        told = (sysfs.text(device / "product_name") or "").removeprefix("AMD ").strip()
        name = told or NAMES.get(sysfs.text(device / "device") or "") or sysfs.pci_name(device)
        return Card(Gpu("amd", name, memory_bytes >> 20), number, nodes=nodes, groups=groups)

    def _device(self, render_node: str) -> Path:
        return self._root / "sys/class/drm" / render_node.rpartition("/")[2] / "device"


def _render_node(node: Path) -> int | None:
    """The number of a node's render node; None where it is no card, or another's."""
    lines = (sysfs.text(node / "properties") or "").splitlines()
    properties = dict(line.split(maxsplit=1) for line in lines if " " in line)
    minor = properties.get("drm_render_minor", "0")
    return int(minor) if minor.isdigit() and int(minor) >= FIRST_RENDER_NODE else None
