"""NVIDIA's management library, as far as it is needed. It counts cards by their place on the PCI bus.

It is opened once and kept: opening wakes up cards, which can take seconds. Nothing is set by it.
"""

import ctypes
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
NOT_SUPPORTED = 3
TEXT_BYTES_MAX = 96


class NvmlError(Exception):
    """The library says no."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function}: error {code}")
        self.code = code


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Nvml:
    """An open library. Its functions raise `NvmlError`."""

    def __init__(self, library: Any) -> None:
        """Args: `library`: as `ctypes` loads it.

        Raises:
            NvmlError: there is no driver, or it does not work.
        """
        self._library = library
        self._call("nvmlInit_v2")

    def count(self) -> int:
        """How many cards there are."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return count.value

    def device(self, number: int) -> ctypes.c_void_p:
        """A card, for the other functions."""
        device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(number), ctypes.byref(device))
        return device

    def name(self, device: ctypes.c_void_p) -> str:
        """As `NVIDIA A100-SXM4-40GB`."""
        return self._text("nvmlDeviceGetName", device)

    def uuid(self, device: ctypes.c_void_p) -> str:
        """As `GPU-7a0b1c2d-…`."""
        return self._text("nvmlDeviceGetUUID", device)

    def memory_bytes(self, device: ctypes.c_void_p) -> tuple[int, int]:
        """All memory, and what of it is in use or kept by the driver."""
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        return memory.total, memory.used

    def compute_capability(self, device: ctypes.c_void_p) -> tuple[int, int]:
        """Major and minor."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvmlDeviceGetCudaComputeCapability", device, ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def utilization_percent(self, device: ctypes.c_void_p) -> int:
        """For how much of the last moments something ran on the card."""
        utilization = _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", device, ctypes.byref(utilization))
        return int(utilization.gpu)

    def _text(self, function: str, device: ctypes.c_void_p) -> str:
        buffer = ctypes.create_string_buffer(TEXT_BYTES_MAX)
        self._call(function, device, buffer, ctypes.c_uint(TEXT_BYTES_MAX))
        return buffer.value.decode(errors="replace")

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise NvmlError(function, code)
