"""NVIDIA's management library with made-up cards: a stand-in in Python, and a real one where there is `cc`."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack.agent.gpus.nvml import LIBRARY, NOT_SUPPORTED
from tests.machine import missing

GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9

MIB = 1 << 20


@dataclass(frozen=True)
class FakeCard:
    """One card of the library."""

    name: str = "NVIDIA A100-SXM4-40GB"
    uuid: str = "GPU-0"
    memory_mib: int | None = 40960
    """None where it has none of its own."""
    used_mib: int = 0
    utilization: int | None = 0
    capability: tuple[int, int] = (8, 0)
    is_lost: bool = False


T4 = FakeCard("NVIDIA T4", "GPU-b", 15360, capability=(7, 5))


class FakeLibrary:
    """Answers as the library does: by what it writes where it is told to, and a code."""

    def __init__(self, *cards: FakeCard, init: int = 0) -> None:
        self.cards = cards
        self.init = init
        self.inits = 0

    def nvmlInit_v2(self) -> int:
        self.inits += 1
        return self.init

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: Any, device: Any) -> int:
        if self.cards[number.value].is_lost:
            return GPU_IS_LOST
        device._obj.value = number.value + 1
        return 0

    def nvmlDeviceGetName(self, device: Any, text: Any, length: Any) -> int:
        text.value = self._card(device).name.encode()
        return 0

    def nvmlDeviceGetUUID(self, device: Any, text: Any, length: Any) -> int:
        text.value = self._card(device).uuid.encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:
        card = self._card(device)
        if card.memory_mib is None:
            return NOT_SUPPORTED
        memory._obj.total, memory._obj.used = card.memory_mib * MIB, card.used_mib * MIB
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, device: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = self._card(device).capability
        return 0

    def nvmlDeviceGetUtilizationRates(self, device: Any, rates: Any) -> int:
        card = self._card(device)
        if card.utilization is None:
            return NOT_SUPPORTED
        rates._obj.gpu = card.utilization
        return 0

    def _card(self, device: Any) -> FakeCard:
        return self.cards[device.value - 1]


_SOURCE = """
struct card { const char *name, *uuid; unsigned long long total, used; int major, minor, utilization; };
static const struct card cards[] = { %s };
#define COUNT (sizeof cards / sizeof *cards)
static const struct card *at(void *device) { return cards + ((unsigned long long) device - 1); }
static int put(char *to, const char *from, unsigned most) {
    for (unsigned i = 0; i < most; i++) { to[i] = from[i]; if (!from[i]) return 0; }
    return 7;
}
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) {
    if (i >= COUNT) return 2;
    *device = (void *) (unsigned long long) (i + 1);
    return 0;
}
int nvmlDeviceGetName(void *device, char *to, unsigned most) { return put(to, at(device)->name, most); }
int nvmlDeviceGetUUID(void *device, char *to, unsigned most) { return put(to, at(device)->uuid, most); }
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
    memory[0] = at(device)->total; memory[2] = at(device)->used; memory[1] = memory[0] - memory[2];
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = at(device)->major; *minor = at(device)->minor;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    rates[0] = at(device)->utilization; rates[1] = 0;
    return 0;
}
"""


def build_library(folder: Path, cards: Sequence[FakeCard]) -> Path:
    """A shared library of cards that work, under the name by which it is looked for. Skips where there is no `cc`."""
    compiler = shutil.which("cc")
    if compiler is None:
        missing("there is no C compiler: `apt-get install gcc`")
    rows = [
        f'{{"{card.name}", "{card.uuid}", {(card.memory_mib or 0) * MIB}ull, {card.used_mib * MIB}ull, '
        f"{card.capability[0]}, {card.capability[1]}, {card.utilization or 0}}}"
        for card in cards
    ]
    library = folder / LIBRARY
    command = [compiler, "-shared", "-fPIC", "-nostdlib", "-ffreestanding", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=(_SOURCE % ", ".join(rows)).encode(), check=True)
    return library
