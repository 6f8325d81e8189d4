"""NVIDIA's cards. One that is split (MIG) is left as it is, and is one card all the same."""

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dstack.agent.gpus.cards import Card, Grant, Reading, Vendor
from dstack.agent.gpus.nvml import LIBRARY, NOT_SUPPORTED, Nvml, NvmlError
from dstack.protocol.agent import Gpu

log = logging.getLogger(__name__)

T = TypeVar("T")


def _load() -> Any:
    return ctypes.CDLL(LIBRARY)


class Nvidia(Vendor):
    """Cards that NVIDIA's driver knows."""

    def __init__(self, load: Callable[[], Any] = _load) -> None:
        """Args: `load`: loads the library, or raises `OSError`."""
        self._load = load
        self._nvml: Nvml | None = None

    def cards(self) -> list[Card]:
        try:
            nvml = self._nvml = self._nvml or Nvml(self._load())
            count = nvml.count()
        except (OSError, NvmlError) as error:
            # No driver, or one without a card: no cards that could be used.
            self._nvml = None
            log.debug("No NVIDIA cards: %s", error)
            return []
        return [card for number in range(count) if (card := _card(nvml, number)) is not None]

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        # By itself CUDA counts the fastest card first.
        return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def read(self, card: Card) -> Reading:
        if self._nvml is None:
            return None, None
        try:
            device = self._nvml.device(card.number)
        except NvmlError:  # it has fallen off the bus
            return None, None
        memory = _told(self._nvml.memory_bytes, device)
        return _told(self._nvml.utilization_percent, device), None if memory is None else memory[1] >> 20

    def grant(self, own: Sequence[Card]) -> Grant:
        # Where NVIDIA's runtime is the engine's default, it gives all cards to images that do not say otherwise.
        ids = [card.id for card in own]
        asked = {"DeviceIDs": ids, "Capabilities": [["gpu"]]}
        return Grant({"NVIDIA_VISIBLE_DEVICES": ",".join(ids) or "void"}, requests=(asked,) if own else ())


def _card(nvml: Nvml, number: int) -> Card | None:
    """A card; None for one that does not work."""
    try:
        device = nvml.device(number)
        memory_mib = _memory_mib(nvml, device)
        capability = _told(nvml.compute_capability, device)
        gpu = Gpu(
            vendor="nvidia",
            name=nvml.name(device).removeprefix("NVIDIA ").strip(),
            memory_mib=memory_mib,
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        )
        return Card(gpu, number, nvml.uuid(device))
    except NvmlError as error:
        log.warning("The NVIDIA card %d does not work: %s", number, error)
        return None


def _memory_mib(nvml: Nvml, device: ctypes.c_void_p) -> int:
    try:
        return nvml.memory_bytes(device)[0] >> 20
    except NvmlError as error:
        if error.code != NOT_SUPPORTED:
            raise
        # A card without memory of its own uses the host's.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20


def _told(question: Callable[[ctypes.c_void_p], T], device: ctypes.c_void_p) -> T | None:
    try:
        return question(device)
    except NvmlError:
        return None
