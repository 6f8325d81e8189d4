"""Blocked signals as something to read (`signalfd`), so that one `poll` waits for them and for other things."""

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress

SIGNALS = frozenset((signal.SIGCHLD, signal.SIGTERM))
"""Blocked in every supervisor and carrier, from before its birth: none is ever lost."""

_SET_BYTES = 128
"""What C libraries take for a set of signals; the kernel knows 64 of them."""
_TAKEN_BYTES = 128
"""What is read for each signal; its number comes first."""
_TAKEN_MAX = 16
_libc = ctypes.CDLL(None, use_errno=True)


def signal_descriptor(numbers: Collection[signal.Signals]) -> int:
    """A descriptor that is readable while one of these signals, which this process blocks, waits to be taken.

    Raises:
        OSError: this system has none.
    """
    mask = sum(1 << (number - 1) for number in numbers).to_bytes(_SET_BYTES, sys.byteorder)
    descriptor: int = _libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def take_signals(descriptor: int) -> set[int]:
    """The numbers of the signals that wait."""
    taken = b""
    with suppress(BlockingIOError):
        taken = os.read(descriptor, _TAKEN_BYTES * _TAKEN_MAX)
    heads = (taken[at : at + 4] for at in range(0, len(taken), _TAKEN_BYTES))
    return {int.from_bytes(head, sys.byteorder) for head in heads}
