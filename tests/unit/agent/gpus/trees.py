"""Made-up machines, as the kernel shows their devices in files."""

from pathlib import Path


class Machine:
    """A folder that stands for `/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str = "") -> Path:
        """A file, with the folders that it needs."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n" if text else "")
        return file

    def device(self, address: str, vendor: str, model: str, kind: str = "0x030000", **files: str) -> Path:
        """A device on the PCI bus."""
        folder = f"sys/devices/pci0000:00/{address}"
        for name, text in {"vendor": vendor, "device": model, "class": kind, **files}.items():
            self.write(f"{folder}/{name}", text)
        self.link(f"sys/bus/pci/devices/{address}", folder)
        return self.root / folder

    def link(self, path: str, target: str) -> None:
        """A link to another path of the machine."""
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(self.root / target)

    def graphics(self, address: str, render: int, vendor: str, model: str, **files: str) -> Path:
        """A graphics card with its device file."""
        device = self.device(address, vendor, model, **files)
        self.link(f"sys/class/drm/renderD{render}/device", f"sys/devices/pci0000:00/{address}")
        self.write(f"dev/dri/renderD{render}")
        return device

    def kfd_node(self, number: int, render: int, simd_count: int = 304) -> None:
        """A node of AMD's topology; that of a CPU has no render node."""
        text = f"cpu_cores_count 0\nsimd_count {simd_count}\ndrm_render_minor {render}"
        self.write(f"sys/class/kfd/kfd/topology/nodes/{number}/properties", text)

    def amd(self, node: int, address: str, render: int, model: str = "0x74a1", **files: str) -> None:
        """A card of AMD's that can compute."""
        self.write("dev/kfd")
        self.kfd_node(node, render)
        told = {"mem_info_vram_total": str(192 << 30), "mem_info_vram_used": str(3 << 30), "gpu_busy_percent": "42"}
        self.graphics(address, render, "0x1002", model, **{**told, **files})

    def gaudi(self, number: int, model: str = "0x1020") -> None:
        """A Gaudi."""
        address = f"0000:{number + 0x10:02x}:00.0"
        self.device(address, "0x1da3", model, "0x120000")
        self.link(f"sys/class/accel/accel{number}/device", f"sys/devices/pci0000:00/{address}")
        self.write(f"dev/accel/accel{number}")
        self.write(f"dev/accel/accel_controlD{number}")

    def tpu(self, number: int, model: str = "0x0063", *, vfio: bool = True) -> None:
        """A TPU chip, behind VFIO or its older driver."""
        address = f"0000:00:{number + 5:02x}.0"
        device = self.device(address, "0x1ae0", model, "0xff0000")
        if vfio:
            (self.root / f"sys/kernel/iommu_groups/{number}").mkdir(parents=True)
            (device / "iommu_group").symlink_to(self.root / f"sys/kernel/iommu_groups/{number}")
            self.write("dev/vfio/vfio")
            self.write(f"dev/vfio/{number}")
        else:
            (device / f"accel/accel{number}").mkdir(parents=True)
            self.write(f"dev/accel{number}")
